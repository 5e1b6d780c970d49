//! What is behind each name in a pod's `spec.volumes`: claims are followed to their volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, CSIVolumeSource, ConfigMapVolumeSource, DownwardAPIVolumeSource,
    ImageVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource,
    SecretVolumeSource, Volume, VolumeProjection,
};
use kube::{Api, Client};

use crate::kubelet::cluster::objects::{ObjectKind, ObjectRef};
use crate::kubelet::pod::spec;

/// Names the provisioner of a PV.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The cluster's own provisioner of folders on nodes.
const LOCAL_PATH_PROVISIONER: &str = "quarterdeck.dev/local-path";

/// True if the pod takes files from this ConfigMap or Secret.
pub fn uses(pod: &Pod, object: &ObjectRef) -> bool {
    let is_map = object.kind == ObjectKind::ConfigMap;
    let map = |name: Option<&str>| is_map && name == Some(&object.name);
    let secret = |name: Option<&str>| !is_map && name == Some(&object.name);
    let projected = |p: &VolumeProjection| {
        map(p.config_map.as_ref().map(|m| m.name.as_str()))
            || secret(p.secret.as_ref().map(|s| s.name.as_str()))
    };
    spec::namespace(pod) == object.namespace
        && spec::spec(pod).volumes.iter().flatten().any(|volume| {
            map(volume.config_map.as_ref().map(|m| m.name.as_str()))
                || secret(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()))
                || volume.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(projected)
        })
}

/// One volume of a pod.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Its name in the pod.
    pub name: String,
    /// The folder's name on disk: the PV's where there is one.
    pub dir_name: String,
    /// The claim it comes from.
    pub claim: Option<String>,
    /// What it is.
    pub source: Source,
    /// The PV or claim demands read-only use.
    pub read_only: bool,
    /// A raw device, not a file system.
    pub block: bool,
    /// Mount options of the PV.
    pub mount_options: Vec<String>,
    /// Access modes of the PV.
    pub access_modes: Vec<String>,
}

/// What a volume is made of.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder that lives with the pod.
    EmptyDir {
        /// Empty, `Memory`, or `HugePages…`.
        medium: String,
        /// Limit in bytes.
        size_bytes: Option<u64>,
    },
    /// A path of the machine.
    HostPath {
        /// The path.
        path: String,
        /// What must be there.
        kind: String,
        /// A folder that is made may be written by everybody: it was provisioned for one claim.
        open: bool,
    },
    /// A disk of the machine, through a PV.
    Local {
        /// The path.
        path: String,
    },
    /// Files from a ConfigMap.
    ConfigMap(ConfigMapVolumeSource),
    /// Files from a Secret.
    Secret(SecretVolumeSource),
    /// Files from the pod's own fields.
    Downward(DownwardAPIVolumeSource),
    /// Files from several sources.
    Projected(ProjectedVolumeSource),
    /// A CSI driver's volume for this pod alone.
    CsiInline(CSIVolumeSource),
    /// A CSI driver's volume through a PV.
    CsiPersistent(Box<CSIPersistentVolumeSource>),
    /// An image's files.
    Image(ImageVolumeSource),
    /// Storage this agent has no plugin for.
    Unsupported(String),
}

impl Source {
    /// The plugin's name in paths.
    pub fn plugin(&self) -> &'static str {
        match self {
            Source::EmptyDir { .. } => "kubernetes.io/empty-dir",
            Source::HostPath { .. } => "kubernetes.io/host-path",
            Source::Local { .. } => "kubernetes.io/local-volume",
            Source::ConfigMap(_) => "kubernetes.io/configmap",
            Source::Secret(_) => "kubernetes.io/secret",
            Source::Downward(_) => "kubernetes.io/downward-api",
            Source::Projected(_) => "kubernetes.io/projected",
            Source::CsiInline(_) | Source::CsiPersistent(_) => "kubernetes.io/csi",
            Source::Image(_) => "kubernetes.io/image",
            Source::Unsupported(_) => "kubernetes.io/unsupported",
        }
    }

    /// True if its files follow objects of the API while the pod runs.
    pub fn is_live(&self) -> bool {
        matches!(self, Source::ConfigMap(_) | Source::Secret(_) | Source::Downward(_) | Source::Projected(_))
    }
}

/// Follows every volume that containers of the pod can name.
pub async fn resolve_all(client: &Client, pod: &Pod) -> Result<BTreeMap<String, Resolved>, (String, String)> {
    let spec = spec::spec(pod);
    let mut resolved = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let one = resolve(client, pod, volume).await.map_err(|text| (volume.name.clone(), text))?;
        resolved.insert(volume.name.clone(), one);
    }
    Ok(resolved)
}

async fn resolve(client: &Client, pod: &Pod, volume: &Volume) -> Result<Resolved, String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return resolve_claim(client, pod, volume, &claim.claim_name, claim.read_only == Some(true)).await;
    }
    if volume.ephemeral.is_some() {
        let claim = format!("{}-{}", spec::name(pod), volume.name);
        return resolve_claim(client, pod, volume, &claim, false).await;
    }
    Ok(Resolved {
        name: volume.name.clone(),
        dir_name: volume.name.clone(),
        claim: None,
        source: direct(volume),
        read_only: false,
        block: false,
        mount_options: vec![],
        access_modes: vec![],
    })
}

/// The source of a volume that names no claim.
fn direct(volume: &Volume) -> Source {
    if let Some(dir) = &volume.empty_dir {
        let size = dir.size_limit.as_ref().map(crate::kubelet::quantity::units);
        return Source::EmptyDir {
            medium: dir.medium.clone().unwrap_or_default(),
            size_bytes: size.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0),
        };
    }
    if let Some(host) = &volume.host_path {
        return Source::HostPath {
            path: host.path.clone(),
            kind: host.type_.clone().unwrap_or_default(),
            open: false,
        };
    }
    let other = || {
        let value = serde_json::to_value(volume).unwrap_or_default();
        let kind = value.as_object().and_then(|o| o.keys().find(|k| *k != "name").cloned());
        Source::Unsupported(kind.unwrap_or_else(|| "unknown".into()))
    };
    None.or_else(|| volume.config_map.clone().map(Source::ConfigMap))
        .or_else(|| volume.secret.clone().map(Source::Secret))
        .or_else(|| volume.downward_api.clone().map(Source::Downward))
        .or_else(|| volume.projected.clone().map(Source::Projected))
        .or_else(|| volume.csi.clone().map(Source::CsiInline))
        .or_else(|| volume.image.clone().map(Source::Image))
        .unwrap_or_else(|| {
            if volume == &(Volume { name: volume.name.clone(), ..Default::default() }) {
                Source::EmptyDir { medium: String::new(), size_bytes: None }
            } else {
                other()
            }
        })
}

async fn resolve_claim(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    claim_name: &str,
    read_only: bool,
) -> Result<Resolved, String> {
    let namespace = spec::namespace(pod);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = claims.get(claim_name).await.map_err(|e| {
        format!("error processing PVC {namespace}/{claim_name}: failed to fetch PVC from API server: {e}")
    })?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let pv_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    let Some(pv_name) = pv_name.filter(|_| bound) else {
        return Err(format!("error processing PVC {namespace}/{claim_name}: PVC is not bound"));
    };
    let pv = Api::<PersistentVolume>::all(client.clone()).get(&pv_name).await.map_err(|e| {
        format!("error processing PVC {namespace}/{claim_name}: failed to fetch PV \"{pv_name}\": {e}")
    })?;
    let claimed_by = pv.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).and_then(|r| r.uid.clone());
    if claimed_by.is_some() && claimed_by != claim.metadata.uid {
        return Err(format!("PV \"{pv_name}\" is claimed by another claim than {namespace}/{claim_name}"));
    }
    if volume.ephemeral.is_some() && !is_owned_by(&claim, pod) {
        return Err(format!(
            "PVC {namespace}/{claim_name} was not created for pod {namespace}/{} (pod is not owner)",
            spec::name(pod)
        ));
    }
    let mut resolved = resolve_pv(volume, &pv_name, &pv, read_only);
    resolved.claim = Some(claim_name.to_owned());
    Ok(resolved)
}

/// A claim that only has the name of a pod's own is somebody else's.
fn is_owned_by(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == spec::uid(pod))
}

fn resolve_pv(volume: &Volume, pv_name: &str, pv: &PersistentVolume, read_only: bool) -> Resolved {
    let spec = pv.spec.clone().unwrap_or_default();
    let source = if let Some(host) = spec.host_path {
        let by = pv.metadata.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY));
        let open = by.is_some_and(|by| by == LOCAL_PATH_PROVISIONER);
        Source::HostPath { path: host.path, kind: host.type_.unwrap_or_default(), open }
    } else if let Some(local) = spec.local {
        Source::Local { path: local.path }
    } else if let Some(csi) = spec.csi {
        Source::CsiPersistent(Box::new(csi))
    } else {
        Source::Unsupported(format!("the storage of persistent volume {pv_name}"))
    };
    Resolved {
        name: volume.name.clone(),
        dir_name: pv_name.to_owned(),
        claim: None,
        source,
        read_only,
        block: spec.volume_mode.as_deref() == Some("Block"),
        mount_options: spec.mount_options.unwrap_or_default(),
        access_modes: spec.access_modes.unwrap_or_default(),
    }
}
