//! What pods use of the machine's disk, and containers of its memory, as eviction needs it.

use proto::cri;

use super::usage::disk_bytes;
use crate::kubelet::cri::client::{CALL_TIMEOUT, timed};
use crate::kubelet::cri::names;
use crate::kubelet::eviction::limits::LocalUse;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Context;
use k8s_openapi::api::core::v1::Pod;

/// Use of one container as the runtime measures it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Its pod.
    pub pod_uid: String,
    /// Its name.
    pub name: String,
    /// Memory that cannot be taken back, bytes.
    pub memory_bytes: u64,
    /// What it wrote over its image, bytes.
    pub writable_bytes: u64,
    /// The same, inodes.
    pub writable_inodes: u64,
}

/// Asks the runtime about every container; nothing while it does not answer.
pub async fn container_use(context: &Context) -> Vec<ContainerUse> {
    let request = timed(cri::ListContainerStatsRequest { filter: None }, CALL_TIMEOUT);
    let answer = context.runtime.runtime().list_container_stats(request).await;
    let stats = answer.map(|a| a.into_inner().stats).unwrap_or_default();
    stats.into_iter().filter_map(convert).collect()
}

fn convert(stats: cri::ContainerStats) -> Option<ContainerUse> {
    let attributes = stats.attributes?;
    let value = |wrapped: Option<cri::UInt64Value>| wrapped.map_or(0, |w| w.value);
    let disk = stats.writable_layer.unwrap_or_default();
    Some(ContainerUse {
        pod_uid: attributes.labels.get(names::POD_UID)?.clone(),
        name: attributes.labels.get(names::CONTAINER_NAME)?.clone(),
        memory_bytes: value(stats.memory.and_then(|m| m.working_set_bytes)),
        writable_bytes: value(disk.used_bytes),
        writable_inodes: value(disk.inodes_used),
    })
}

/// What the pod has on the machine's disk. Volumes with a file system of their own do not count.
pub fn local_use(context: &Context, pod: &Pod, usage: &[ContainerUse]) -> LocalUse {
    let uid = spec::uid(pod);
    let layout = context.volumes.layout();
    let mut local = LocalUse::default();
    let logs = names::pod_log_dir(&context.config.pod_logs_dir, spec::namespace(pod), spec::name(pod), uid);
    for own in usage.iter().filter(|c| c.pod_uid == uid) {
        let logs = disk_bytes(&logs.join(&own.name));
        *local.containers.entry(own.name.clone()).or_default() += own.writable_bytes + logs;
    }
    let spec = spec::spec(pod);
    for volume in spec.volumes.iter().flatten() {
        let dir = |plugin: &str| layout.volume(uid, plugin, &volume.name);
        if volume.empty_dir.is_some() {
            local.empty_dirs.insert(volume.name.clone(), disk_bytes(&dir("kubernetes.io/empty-dir")));
        }
        for plugin in ["kubernetes.io/configmap", "kubernetes.io/downward-api"] {
            local.other += disk_bytes(&dir(plugin));
        }
    }
    local
}
