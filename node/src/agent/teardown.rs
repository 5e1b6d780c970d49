//! Clears the machine: every pod, mount, cgroup, rule and interface of this agent, and the runtime it started.
//! Each step is tried whatever became of the one before.

use proto::cri::PodSandbox;
use tokio::process::Command;

use super::BRIDGE;
use crate::kubelet::cgroups::Cgroups;
use crate::kubelet::config::Config;
use crate::kubelet::cri::{Runtime, names};
use crate::kubelet::volumes::mounts;
use crate::network::nft::Nft;
use crate::network::{OVERLAY, host_ports, masquerade};
use crate::proxy;
use crate::runtime::supervisor::Supervisor;

/// Runs every step.
pub async fn run(config: &Config, supervisor: Option<Supervisor>) {
    match Runtime::connect(&config.runtime_endpoint).await {
        Ok(runtime) => remove_pods(config, &runtime).await,
        Err(error) => tracing::warn!(%error, "pods cannot be removed: the runtime does not answer"),
    }
    for point in mounts::under(&config.root_dir).unwrap_or_default() {
        if let Err(error) = mounts::unmount(&point) {
            tracing::warn!(%error, point = %point.display(), "cannot unmount");
        }
    }
    Cgroups::new(config).remove_parents().await;
    if let Err(error) = proxy::cleanup(&Nft::default()).await {
        tracing::warn!(%error, "service rules cannot be removed");
    }
    for script in [masquerade::removal(), host_ports::removal()] {
        if let Err(error) = Nft::default().apply(&script).await {
            tracing::warn!(%error, "the pod network's rules cannot be removed");
        }
    }
    for link in [BRIDGE, OVERLAY] {
        // A link that was never made is fine.
        let _ = Command::new("ip").args(["link", "delete", link]).output().await;
    }
    if let Some(supervisor) = supervisor {
        supervisor.stop().await;
    }
}

/// The folder of a pod's logs, which other programs' pods may stand beside.
fn remove_logs(config: &Config, sandbox: &PodSandbox, uid: &str) {
    let Some(pod) = sandbox.metadata.as_ref().filter(|_| !uid.is_empty()) else { return };
    let logs = names::pod_log_dir(&config.pod_logs_dir, &pod.namespace, &pod.name, uid);
    if let Err(error) = std::fs::remove_dir_all(&logs)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %logs.display(), "the logs of a pod cannot be removed");
    }
}

async fn remove_pods(config: &Config, runtime: &Runtime) {
    let sandboxes = match runtime.list_pod_sandbox(None).await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            tracing::warn!(%error, "pods cannot be listed");
            return;
        }
    };
    let cgroups = Cgroups::new(config);
    let removals = sandboxes.into_iter().map(|sandbox| {
        let cgroups = &cgroups;
        async move {
            let stopped = runtime.stop_pod_sandbox(&sandbox.id).await;
            if let Err(error) = stopped.and(runtime.remove_pod_sandbox(&sandbox.id).await) {
                tracing::warn!(%error, sandbox = sandbox.id, "a pod cannot be removed");
            }
            if let Some(uid) = sandbox.labels.get(names::POD_UID) {
                let _ = cgroups.remove_uid(uid).await;
                remove_logs(config, &sandbox, uid);
            }
        }
    });
    futures::future::join_all(removals).await;
}
