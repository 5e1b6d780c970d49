//! Makes one volume ready on disk. Every call may be repeated: what is right already is left alone, and files
//! from API objects are brought up to date.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Pod, PodStatus, ProjectedVolumeSource, SecretVolumeSource, VolumeProjection,
};

use super::layout::Layout;
use super::payload::{self, File, Payload, PayloadError};
use super::source::{Resolved, Source};
use super::tokens::Tokens;
use super::{atomic, fs_group, host_path, mounts, trust};
use crate::kubelet::cgroup_limits::of_pod;
use crate::kubelet::cluster::objects::Objects;
use crate::kubelet::fields::Allocatable;
use crate::kubelet::pod::spec;
use crate::kubelet::quantity;

/// Mode of token files where neither volume nor user decide.
const TOKEN_MODE_GROUP: u32 = 0o640;
const TOKEN_MODE_OWNER: u32 = 0o600;

/// What volumes are made from.
pub struct Setup<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// ConfigMaps and Secrets.
    pub objects: &'a Objects,
    /// Tokens.
    pub tokens: &'a Tokens,
    /// The pod.
    pub pod: &'a Pod,
    /// Its newest status.
    pub status: &'a PodStatus,
    /// The machine's allocatable resources.
    pub allocatable: &'a Allocatable,
}

type Done = Result<PathBuf, String>;

/// How large a file system in memory may grow: no pod has more memory than all pods together, or than its own limit. Like
/// upstream's, so that the kernel's default, half of the machine, fills nobody's memory.
fn memory_bytes(of_node: Option<i64>, of_pod: Option<i64>, wanted: Option<u64>) -> Option<u64> {
    let bounds = [of_node, of_pod].into_iter().flatten().filter_map(|bytes| u64::try_from(bytes).ok());
    bounds.chain(wanted).filter(|bytes| *bytes > 0).min()
}

fn io_text(what: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{}: {error}", what.display())
}

impl Setup<'_> {
    /// Makes the volume ready and returns its path on the machine. CSI volumes and images are not made here.
    pub async fn prepare(&self, volume: &Resolved) -> Done {
        let uid = spec::uid(self.pod);
        let dir = self.layout.volume(uid, volume.source.plugin(), &volume.dir_name);
        match &volume.source {
            Source::EmptyDir { medium, size_bytes } => self.empty_dir(&dir, medium, *size_bytes),
            Source::HostPath { path, kind, open } => {
                let fresh = !Path::new(path).exists();
                host_path::prepare(Path::new(path), kind)?;
                if *open && fresh {
                    let path = Path::new(path);
                    fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(io_text(path))?;
                }
                Ok(PathBuf::from(path))
            }
            Source::Local { path } => self.local(&dir, Path::new(path), volume).await,
            Source::ConfigMap(source) => {
                let files = self.config_map(source).await?;
                self.write(&dir, &files, false)
            }
            Source::Secret(source) => {
                let files = self.secret(source).await?;
                self.write(&dir, &files, true)
            }
            Source::Downward(source) => {
                let items = source.items.as_deref().unwrap_or_default();
                let files =
                    payload::downward(self.pod, self.status, items, source.default_mode, self.allocatable);
                self.write(&dir, &files.map_err(|e| e.to_string())?, true)
            }
            Source::Projected(source) => {
                let files = self.projected(source).await?;
                self.write(&dir, &files, true)
            }
            Source::CsiInline(_) | Source::CsiPersistent(_) | Source::Image(_) => Ok(dir),
            Source::Unsupported(what) => Err(format!("no volume plugin matched: {what}")),
        }
    }

    fn fs_group(&self) -> Option<u32> {
        let spec = spec::spec(self.pod);
        let group = spec.security_context.as_ref().and_then(|c| c.fs_group);
        group.and_then(|g| u32::try_from(g).ok())
    }

    fn only_on_mismatch(&self) -> bool {
        let spec = spec::spec(self.pod);
        let policy = spec.security_context.as_ref().and_then(|c| c.fs_group_change_policy.as_deref());
        policy == Some("OnRootMismatch")
    }

    fn memory_bytes(&self, wanted: Option<u64>) -> Option<u64> {
        let node = self.allocatable.get("memory").map(quantity::units);
        memory_bytes(node, of_pod(self.pod).memory, wanted)
    }

    fn empty_dir(&self, dir: &Path, medium: &str, size_bytes: Option<u64>) -> Done {
        let fresh = !dir.exists();
        fs::create_dir_all(dir).map_err(io_text(dir))?;
        if !medium.is_empty() && !mounts::is_mount_point(dir).map_err(io_text(dir))? {
            match medium.strip_prefix("HugePages") {
                Some(size) => mounts::hugetlbfs(dir, size.strip_prefix('-')),
                None => mounts::tmpfs(dir, self.memory_bytes(size_bytes)),
            }
            .map_err(io_text(dir))?;
        } else if !fresh {
            return Ok(dir.to_owned());
        }
        fs::set_permissions(dir, Permissions::from_mode(0o777)).map_err(io_text(dir))?;
        if let Some(group) = self.fs_group() {
            fs_group::apply(dir, group, false, self.only_on_mismatch()).map_err(io_text(dir))?;
        }
        Ok(dir.to_owned())
    }

    async fn local(&self, dir: &Path, path: &Path, volume: &Resolved) -> Done {
        if volume.block {
            return Ok(path.to_owned());
        }
        fs::metadata(path).map_err(io_text(path))?;
        fs::create_dir_all(dir).map_err(io_text(dir))?;
        if !mounts::is_mount_point(dir).map_err(io_text(dir))? {
            mounts::bind(path, dir, volume.read_only).map_err(io_text(dir))?;
            if let Some(group) = self.fs_group().filter(|_| !volume.read_only) {
                fs_group::apply_aside(dir, group, self.only_on_mismatch()).await.map_err(io_text(dir))?;
            }
        }
        Ok(dir.to_owned())
    }

    /// Files from objects: secrets and what may hold tokens are kept in memory only.
    fn write(&self, dir: &Path, files: &Payload, in_memory: bool) -> Done {
        fs::create_dir_all(dir).map_err(io_text(dir))?;
        if in_memory && !mounts::is_mount_point(dir).map_err(io_text(dir))? {
            mounts::tmpfs(dir, self.memory_bytes(None)).map_err(io_text(dir))?;
            fs::set_permissions(dir, Permissions::from_mode(0o777)).map_err(io_text(dir))?;
        }
        let group = self.fs_group();
        if let Some(group) = group {
            std::os::unix::fs::chown(dir, None, Some(group)).map_err(io_text(dir))?;
        }
        let now = Timestamp::now();
        let stamp = format!("{}.{}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
        atomic::write(dir, files, group, &stamp).map_err(io_text(dir))?;
        Ok(dir.to_owned())
    }

    async fn config_map(&self, source: &ConfigMapVolumeSource) -> Result<Payload, String> {
        let optional = source.optional == Some(true);
        let data = self.config_map_data(&source.name, optional).await?;
        payload::select("config", &data, source.items.as_deref(), source.default_mode, optional)
            .map_err(|e| e.to_string())
    }

    async fn config_map_data(&self, name: &str, optional: bool) -> Result<DataMap, String> {
        let namespace = spec::namespace(self.pod);
        match self.objects.config_map(namespace, name).await.map_err(|e| e.to_string())? {
            Some(map) => Ok(payload::config_map_data(&map)),
            None if optional => Ok(DataMap::new()),
            None => Err(PayloadError::NotFound { kind: "configmap", name: name.to_owned() }.to_string()),
        }
    }

    async fn secret(&self, source: &SecretVolumeSource) -> Result<Payload, String> {
        let optional = source.optional == Some(true);
        let data = self.secret_data(source.secret_name.as_deref().unwrap_or_default(), optional).await?;
        payload::select("secret", &data, source.items.as_deref(), source.default_mode, optional)
            .map_err(|e| e.to_string())
    }

    async fn secret_data(&self, name: &str, optional: bool) -> Result<DataMap, String> {
        let namespace = spec::namespace(self.pod);
        match self.objects.secret(namespace, name).await.map_err(|e| e.to_string())? {
            Some(secret) => Ok(payload::secret_data(&secret)),
            None if optional => Ok(DataMap::new()),
            None => Err(PayloadError::NotFound { kind: "secret", name: name.to_owned() }.to_string()),
        }
    }

    async fn projected(&self, source: &ProjectedVolumeSource) -> Result<Payload, String> {
        let mut all = Payload::new();
        for one in source.sources.iter().flatten() {
            all.append(&mut self.projection(one, source.default_mode).await?);
        }
        Ok(all)
    }

    async fn projection(&self, one: &VolumeProjection, mode: Option<i32>) -> Result<Payload, String> {
        let text = |e: PayloadError| e.to_string();
        if let Some(map) = &one.config_map {
            let optional = map.optional == Some(true);
            let data = self.config_map_data(&map.name, optional).await?;
            return payload::select("config", &data, map.items.as_deref(), mode, optional).map_err(text);
        }
        if let Some(secret) = &one.secret {
            let optional = secret.optional == Some(true);
            let data = self.secret_data(&secret.name, optional).await?;
            return payload::select("secret", &data, secret.items.as_deref(), mode, optional).map_err(text);
        }
        if let Some(downward) = &one.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            return payload::downward(self.pod, self.status, items, mode, self.allocatable).map_err(text);
        }
        if let Some(token) = &one.service_account_token {
            let text = self.tokens.get(self.pod, token.audience.as_deref(), token.expiration_seconds).await?;
            let (mode, owner) = self.token_mode(mode);
            let file = File { data: text.into_bytes(), mode, owner };
            return Ok([(token.path.clone(), file)].into());
        }
        if let Some(bundle) = &one.cluster_trust_bundle {
            let data = trust::read(self.objects.client(), bundle).await?.unwrap_or_default();
            let mode = mode.unwrap_or(payload::DEFAULT_MODE).unsigned_abs();
            return Ok([(bundle.path.clone(), File { data, mode, owner: None })].into());
        }
        Ok(Payload::new())
    }

    /// A token is readable by the pod's group, else by its one user, else by root only where nobody is named.
    fn token_mode(&self, default: Option<i32>) -> (u32, Option<u32>) {
        let plain = default.unwrap_or(payload::DEFAULT_MODE).unsigned_abs();
        if self.fs_group().is_some() {
            return (TOKEN_MODE_GROUP, None);
        }
        let mut users = spec::init_containers(self.pod)
            .iter()
            .chain(spec::containers(self.pod))
            .map(|c| crate::kubelet::cri::security::run_as_user(self.pod, c));
        let first = users.next().flatten();
        let same = first.is_some() && users.all(|u| u == first);
        match first.filter(|_| same).and_then(|u| u32::try_from(u).ok()) {
            Some(owner) => (TOKEN_MODE_OWNER, Some(owner)),
            None => (plain, None),
        }
    }
}

type DataMap = std::collections::BTreeMap<String, Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_volume_is_bounded_by_node_pod_and_wish() {
        for (node, pod, wanted, expected) in [
            (Some(100), None, None, Some(100)),
            (Some(100), Some(50), None, Some(50)),
            (Some(100), Some(50), Some(20), Some(20)),
            (Some(100), Some(50), Some(70), Some(50)),
            (Some(100), Some(200), Some(0), Some(100)),
            (None, None, Some(20), Some(20)),
            (None, None, None, None),
        ] {
            assert_eq!(memory_bytes(node, pod, wanted), expected, "{node:?} {pod:?} {wanted:?}");
        }
    }
}
