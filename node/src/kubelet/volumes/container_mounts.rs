//! The mounts of one container: its volumes, `/etc/hosts` and the file for its last words.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, VolumeMount};
use proto::cri;

use super::layout::Layout;
use super::source::{Resolved, Source};
use super::subpath;
use crate::kubelet::env::expand;
use crate::kubelet::names_in_pod::hosts_file;
use crate::kubelet::pod::spec;

/// Mode of folders made for a sub-path that does not exist.
const SUBPATH_MODE: u32 = 0o750;

/// A prepared volume: what it is and where it is.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is behind it.
    pub volume: Resolved,
    /// Where it is on the machine.
    pub path: PathBuf,
}

/// What mounts are made from.
#[derive(Clone, Copy, Debug)]
pub struct MountInputs<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// The pod.
    pub pod: &'a Pod,
    /// Its newest status: its addresses go into `/etc/hosts`.
    pub status: &'a PodStatus,
    /// The container.
    pub container: &'a Container,
    /// How often it was restarted: each run has its own last words.
    pub restart_count: u32,
    /// The container's environment, for `subPathExpr`.
    pub env: &'a BTreeMap<String, String>,
    /// The pod's volumes.
    pub volumes: &'a BTreeMap<String, Prepared>,
    /// The cluster's domain.
    pub cluster_domain: &'a str,
}

/// Makes files and sub-path mounts and returns the container's mounts and block devices. The error is shown as
/// `CreateContainerConfigError`.
pub fn mounts(inputs: MountInputs<'_>) -> Result<(Vec<cri::Mount>, Vec<cri::Device>), String> {
    let mut mounts = Vec::new();
    for (index, mount) in inputs.container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(inputs, index, mount)?);
    }
    let covered = mounts.iter().any(|m| m.container_path == "/etc/hosts");
    if !covered {
        mounts.push(hosts_mount(inputs)?);
    }
    mounts.push(termination_mount(inputs)?);
    let devices = inputs.container.volume_devices.iter().flatten().map(|device| {
        let prepared = inputs
            .volumes
            .get(&device.name)
            .ok_or_else(|| format!("volume {} is not mounted", device.name))?;
        Ok(cri::Device {
            container_path: device.device_path.clone(),
            host_path: prepared.path.to_string_lossy().into_owned(),
            permissions: if prepared.volume.read_only { "r" } else { "mrw" }.into(),
        })
    });
    let devices = devices.collect::<Result<Vec<_>, String>>()?;
    Ok((mounts, devices))
}

fn volume_mount(inputs: MountInputs<'_>, index: usize, mount: &VolumeMount) -> Result<cri::Mount, String> {
    let prepared = inputs.volumes.get(&mount.name).ok_or_else(|| {
        format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, inputs.container.name)
    })?;
    let read_only = mount.read_only == Some(true) || prepared.volume.read_only;
    let mut container_path = mount.mount_path.clone();
    if !container_path.starts_with('/') {
        container_path.insert(0, '/');
    }
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    };
    let mut result = cri::Mount {
        container_path,
        readonly: read_only,
        propagation: propagation as i32,
        recursive_read_only: mount.recursive_read_only.as_deref() == Some("Enabled"),
        ..Default::default()
    };
    let sub_path = sub_path(inputs, mount)?;
    if let Source::Image(image) = &prepared.volume.source {
        let reference = image.reference.clone().unwrap_or_default();
        result.image = Some(cri::ImageSpec {
            image: reference.clone(),
            user_specified_image: reference,
            ..Default::default()
        });
        result.image_sub_path = sub_path.unwrap_or_default();
        result.readonly = true;
        return Ok(result);
    }
    let host = match sub_path {
        None => prepared.path.clone(),
        Some(sub_path) => {
            let target = inputs
                .layout
                .subpaths(spec::uid(inputs.pod))
                .join(&prepared.volume.dir_name)
                .join(&inputs.container.name)
                .join(index.to_string());
            subpath::bind(&prepared.path, &sub_path, &target, SUBPATH_MODE).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    mount.name, inputs.container.name
                )
            })?;
            target
        }
    };
    result.host_path = host.to_string_lossy().into_owned();
    Ok(result)
}

fn sub_path(inputs: MountInputs<'_>, mount: &VolumeMount) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
        let missing = std::cell::Cell::new(false);
        let text = expand(expression, |name| {
            let found = inputs.env.get(name).cloned();
            missing.set(missing.get() || found.is_none());
            found
        });
        if missing.get() {
            return Err(format!("missing value for \"{expression}\""));
        }
        if text.starts_with('/') {
            return Err(format!("error SubPath `{text}` must not be an absolute path"));
        }
        if text.split('/').any(|part| part == "..") {
            return Err(format!("unable to provision SubPath `{text}`: must not contain '..'"));
        }
        return Ok(Some(text).filter(|t| !t.is_empty()));
    }
    Ok(mount.sub_path.clone().filter(|s| !s.is_empty()))
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        file.write_all(text.as_bytes())?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

fn hosts_mount(inputs: MountInputs<'_>) -> Result<cri::Mount, String> {
    let path = inputs.layout.etc_hosts(spec::uid(inputs.pod));
    let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
    write_file(&path, &hosts_file(inputs.pod, inputs.status, inputs.cluster_domain, &own), 0o644)?;
    let context = inputs.container.security_context.as_ref();
    Ok(cri::Mount {
        container_path: "/etc/hosts".into(),
        host_path: path.to_string_lossy().into_owned(),
        readonly: context.and_then(|c| c.read_only_root_filesystem) == Some(true),
        selinux_relabel: true,
        ..Default::default()
    })
}

fn termination_mount(inputs: MountInputs<'_>) -> Result<cri::Mount, String> {
    let dir = inputs.layout.container(spec::uid(inputs.pod), &inputs.container.name);
    let path = dir.join(format!("{:08x}", inputs.restart_count));
    write_file(&path, "", 0o666)?;
    let wanted = inputs.container.termination_message_path.clone();
    Ok(cri::Mount {
        container_path: wanted.unwrap_or_else(|| "/dev/termination-log".into()),
        host_path: path.to_string_lossy().into_owned(),
        selinux_relabel: true,
        ..Default::default()
    })
}
