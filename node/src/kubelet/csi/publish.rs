//! Publishing a driver's volume for a pod.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, Pod, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use proto::csi;
use proto::csi::node_service_capability::rpc::Type as Capability;
use sha2::{Digest, Sha256};

use super::capability::capability;
use super::driver::Driver;
use super::in_use;
use super::registry::Plugins;
use super::staging::staging_path;
use super::vol_data::{self, VolData};
use crate::kubelet::cluster::objects::Objects;
use crate::kubelet::pod::spec;
use crate::kubelet::volumes::fs_group;
use crate::kubelet::volumes::layout::Layout;
use crate::kubelet::volumes::mounts;
use crate::kubelet::volumes::source::{Resolved, Source};

pub(super) fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// One volume on its way to a pod.
pub(super) struct Job<'a> {
    pub(super) driver: Driver,
    spec: Option<CSIDriver>,
    pod: &'a Pod,
    pub(super) volume: &'a Resolved,
    pub(super) volume_id: String,
    pub(super) context: HashMap<String, String>,
    secrets: HashMap<String, String>,
    pub(super) stage_secrets: HashMap<String, String>,
    pub(super) capability: csi::VolumeCapability,
    fs_type: String,
    read_only: bool,
    pub(super) publish_context: HashMap<String, String>,
    /// The volume was attached for this machine, and stays so while the node's status names it.
    is_attached: bool,
}

impl Plugins {
    /// Stages (where the driver does) and publishes a volume; the path on the machine.
    pub async fn publish(
        &self,
        layout: &Layout,
        objects: &Objects,
        pod: &Pod,
        volume: &Resolved,
    ) -> Result<PathBuf, String> {
        let job = self.job(objects, pod, volume).await?;
        let _alone = self.alone_with(&job.driver.name, &job.volume_id).await;
        let target = publish_path(layout, pod, volume);
        let dir = layout.volume(spec::uid(pod), "kubernetes.io/csi", &volume.dir_name);
        if mounts::is_mount_point(&target).map_err(|e| e.to_string())? {
            return Ok(target);
        }
        let note = VolData {
            driver_name: job.driver.name.clone(),
            volume_handle: job.volume_id.clone(),
            spec_vol_id: volume.dir_name.clone(),
            volume_lifecycle_mode: mode(&volume.source).into(),
            node_name: self.node_name.clone(),
        };
        // The note goes first: whatever happens after it, the volume will be released.
        vol_data::save(&dir, &note).map_err(|e| format!("{}: {e}", dir.display()))?;
        if job.is_attached {
            self.in_use.wait_told(&in_use::unique_name(&note)).await?;
        }
        let staging = self.stage(layout, &job).await?;
        let parent = if volume.block { target.parent() } else { Some(dir.as_path()) };
        if let Some(made) = parent {
            fs::create_dir_all(made).map_err(|e| format!("{}: {e}", made.display()))?;
        }
        self.publish_job(&job, &staging, &target).await?;
        apply_fs_group(&job, &target).await?;
        Ok(target)
    }

    /// Publishes again where the driver wants to be asked regularly, for what it puts there changes.
    pub async fn republish(
        &self,
        layout: &Layout,
        objects: &Objects,
        pod: &Pod,
        volume: &Resolved,
    ) -> Result<(), String> {
        let name = match &volume.source {
            Source::CsiInline(inline) => &inline.driver,
            Source::CsiPersistent(source) => &source.driver,
            _ => return Ok(()),
        };
        // The API may be away: the next look tells.
        let spec = self.driver_spec(name).await.ok().flatten();
        if spec.is_none_or(|driver| driver.spec.requires_republish != Some(true)) {
            return Ok(());
        }
        let job = self.job(objects, pod, volume).await?;
        let _alone = self.alone_with(&job.driver.name, &job.volume_id).await;
        let staged =
            !matches!(volume.source, Source::CsiInline(_)) && job.driver.can(Capability::StageUnstageVolume);
        let staging = staged.then(|| staging_path(layout, &job.driver.name, &job.volume_id));
        let staging = staging.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        self.publish_job(&job, &staging, &publish_path(layout, pod, volume)).await
    }

    async fn job<'a>(
        &self,
        objects: &Objects,
        pod: &'a Pod,
        volume: &'a Resolved,
    ) -> Result<Job<'a>, String> {
        let empty = Vec::new();
        match &volume.source {
            Source::CsiInline(inline) => {
                let seed = format!("{}{}{}", spec::namespace(pod), spec::uid(pod), volume.name);
                let secret = inline.node_publish_secret_ref.as_ref();
                let reference = secret.map(|s| SecretReference {
                    name: Some(s.name.clone()),
                    namespace: Some(spec::namespace(pod).to_owned()),
                });
                let fs_type = inline.fs_type.clone().unwrap_or_default();
                let (driver, spec) = (self.driver(&inline.driver)?, self.driver_spec(&inline.driver).await?);
                check_mode(&volume.source, &inline.driver, spec.as_ref())?;
                Ok(Job {
                    capability: capability(&driver, false, &fs_type, &empty, &["ReadWriteOnce".into()]),
                    driver,
                    spec,
                    pod,
                    volume,
                    volume_id: format!("csi-{}", sha256_hex(&seed)),
                    context: inline.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
                    secrets: secret_data(objects, reference.as_ref()).await?,
                    stage_secrets: HashMap::new(),
                    fs_type,
                    read_only: inline.read_only == Some(true),
                    publish_context: HashMap::new(),
                    is_attached: false,
                })
            }
            Source::CsiPersistent(source) => self.persistent_job(objects, pod, volume, source).await,
            other => Err(format!("{} is not a CSI volume", other.plugin())),
        }
    }

    async fn persistent_job<'a>(
        &self,
        objects: &Objects,
        pod: &'a Pod,
        volume: &'a Resolved,
        source: &CSIPersistentVolumeSource,
    ) -> Result<Job<'a>, String> {
        let fs_type = source.fs_type.clone().unwrap_or_default();
        let (driver, spec) = (self.driver(&source.driver)?, self.driver_spec(&source.driver).await?);
        check_mode(&volume.source, &source.driver, spec.as_ref())?;
        let attach = spec.as_ref().is_none_or(|d| d.spec.attach_required != Some(false));
        let (options, modes) = (&volume.mount_options, &volume.access_modes);
        Ok(Job {
            capability: capability(&driver, volume.block, &fs_type, options, modes),
            driver,
            publish_context: if attach { self.attachment(source).await? } else { HashMap::new() },
            is_attached: attach,
            spec,
            pod,
            volume,
            volume_id: source.volume_handle.clone(),
            context: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            secrets: secret_data(objects, source.node_publish_secret_ref.as_ref()).await?,
            stage_secrets: secret_data(objects, source.node_stage_secret_ref.as_ref()).await?,
            fs_type,
            read_only: source.read_only == Some(true) || volume.read_only,
        })
    }

    /// What the cluster knows of a driver. Without an answer nobody can tell what the driver wants.
    async fn driver_spec(&self, name: &str) -> Result<Option<CSIDriver>, String> {
        let found = Api::<CSIDriver>::all(self.client.clone()).get_opt(name).await;
        found.map_err(|error| format!("CSIDriver {name}: {error}"))
    }

    /// What the attacher left for this machine; an error until the volume is attached.
    async fn attachment(
        &self,
        source: &CSIPersistentVolumeSource,
    ) -> Result<HashMap<String, String>, String> {
        let seed = format!("{}{}{}", source.volume_handle, source.driver, self.node_name);
        let name = format!("csi-{}", sha256_hex(&seed));
        let found = Api::<VolumeAttachment>::all(self.client.clone()).get(&name).await;
        let status = found.map_err(|e| format!("volume attachment {name}: {e}"))?.status.unwrap_or_default();
        if !status.attached {
            return Err(format!("volume {} is not attached yet", source.volume_handle));
        }
        Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect())
    }

    async fn publish_job(&self, job: &Job<'_>, staging: &str, target: &Path) -> Result<(), String> {
        let mut context = job.context.clone();
        if job.spec.as_ref().is_some_and(|d| d.spec.pod_info_on_mount == Some(true)) {
            context.extend(pod_info(job));
        }
        let mut secrets = job.secrets.clone();
        if let Some((entry, in_secrets)) = self.account_tokens(job.spec.as_ref(), job.pod).await? {
            let place = if in_secrets { &mut secrets } else { &mut context };
            place.extend([entry]);
        }
        let mut capability = job.capability.clone();
        if let (Some(group), Some(csi::volume_capability::AccessType::Mount(mount))) =
            (group_of(job.pod), capability.access_type.as_mut())
            && job.driver.can(Capability::VolumeMountGroup)
        {
            mount.volume_mount_group = group.to_string();
        }
        let request = csi::NodePublishVolumeRequest {
            volume_id: job.volume_id.clone(),
            publish_context: job.publish_context.clone(),
            staging_target_path: staging.to_owned(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(capability),
            readonly: job.read_only,
            secrets,
            volume_context: context,
        };
        job.driver.publish(request).await
    }
}

/// How long the volume lives: with its pod or beyond.
fn mode(source: &Source) -> &'static str {
    match source {
        Source::CsiInline(_) => "Ephemeral",
        _ => "Persistent",
    }
}

/// A driver only gets volumes of the kinds it says it takes. Texts are upstream's.
fn check_mode(source: &Source, name: &str, driver: Option<&CSIDriver>) -> Result<(), String> {
    let mode = mode(source);
    let Some(driver) = driver else {
        let missing = format!("volume mode \"{mode}\" not supported by driver {name} (no CSIDriver object)");
        return if mode == "Persistent" { Ok(()) } else { Err(missing) };
    };
    let persistent = || vec!["Persistent".to_owned()];
    let modes =
        driver.spec.volume_lifecycle_modes.clone().filter(|m| !m.is_empty()).unwrap_or_else(persistent);
    if modes.iter().any(|m| m == mode) {
        return Ok(());
    }
    let modes: Vec<String> = modes.iter().map(|m| format!("\"{m}\"")).collect();
    Err(format!(
        "volume mode \"{mode}\" not supported by driver {name} (only supports [{}])",
        modes.join(" ")
    ))
}

/// Where a pod sees the volume.
fn publish_path(layout: &Layout, pod: &Pod, volume: &Resolved) -> PathBuf {
    let (uid, name) = (spec::uid(pod), &volume.dir_name);
    if volume.block {
        return layout.plugins().join("kubernetes.io/csi/volumeDevices/publish").join(name).join(uid);
    }
    layout.volume(uid, "kubernetes.io/csi", name).join("mount")
}

fn pod_info(job: &Job<'_>) -> BTreeMap<String, String> {
    let spec = spec::spec(job.pod);
    let key = |name: &str| format!("csi.storage.k8s.io/{name}");
    let inline = matches!(job.volume.source, Source::CsiInline(_));
    BTreeMap::from([
        (key("pod.name"), spec::name(job.pod).to_owned()),
        (key("pod.namespace"), spec::namespace(job.pod).to_owned()),
        (key("pod.uid"), spec::uid(job.pod).to_owned()),
        (key("serviceAccount.name"), spec.service_account_name.clone().unwrap_or_default()),
        (key("ephemeral"), inline.to_string()),
    ])
}

fn group_of(pod: &Pod) -> Option<u32> {
    let spec = spec::spec(pod);
    spec.security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok())
}

/// Gives the volume to the pod's group where the driver wants the agent to do it.
async fn apply_fs_group(job: &Job<'_>, target: &Path) -> Result<(), String> {
    let Some(group) = group_of(job.pod) else { return Ok(()) };
    if job.read_only || job.volume.block || job.driver.can(Capability::VolumeMountGroup) {
        return Ok(());
    }
    let policy = job.spec.as_ref().and_then(|d| d.spec.fs_group_policy.as_deref());
    let applies = match policy {
        Some("None") => false,
        Some("File") => true,
        _ => {
            !job.fs_type.is_empty() && job.volume.access_modes.iter().any(|m| m.starts_with("ReadWriteOnce"))
        }
    };
    if !applies {
        return Ok(());
    }
    let spec = spec::spec(job.pod);
    let change = spec.security_context.as_ref().and_then(|c| c.fs_group_change_policy.as_deref());
    fs_group::apply_aside(target, group, change == Some("OnRootMismatch"))
        .await
        .map_err(|e| format!("applyFSGroup failed for vol {}: {e}", job.volume_id))
}

async fn secret_data(
    objects: &Objects,
    reference: Option<&SecretReference>,
) -> Result<HashMap<String, String>, String> {
    let Some(reference) = reference else { return Ok(HashMap::new()) };
    let (name, namespace) =
        (reference.name.clone().unwrap_or_default(), reference.namespace.clone().unwrap_or_default());
    let secret = objects.secret(&namespace, &name).await.map_err(|e| e.to_string())?;
    let secret = secret.ok_or_else(|| format!("secret \"{name}\" not found"))?;
    let text =
        |(k, v): (&String, &k8s_openapi::ByteString)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned());
    Ok(secret.data.iter().flatten().map(text).collect())
}
