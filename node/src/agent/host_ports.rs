//! Keeps the host port rules in step with the pods of this machine, as long as the pod network is ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::BRIDGE;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;
use crate::network::cni;
use crate::network::host_ports::{self, HostPort, Protocol, script};
use crate::network::nft::Nft;
use crate::network::view::Family;

/// A refused or lost table is written again after this.
const RESYNC_PERIOD: Duration = Duration::from_secs(30);
/// How often is looked whether every pod is known.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// Runs until the token fires. The rules stay, so that pods keep their ports while the agent is away.
pub async fn run(pool: Arc<Pool>, cni_conf_dir: PathBuf, shutdown: CancellationToken) {
    let nft = Nft::default();
    let mut applied: Option<String> = None;
    // A table of the agent before stands until this one knows every pod, which takes as long as the API is away.
    let has_old = !matches!(nft.has_table(host_ports::TABLE).await, Ok(false));
    loop {
        let views = pool.views();
        let settled = is_settled(pool.is_complete(), &views);
        let may_write = settled || applied.is_some() || !has_old;
        let ports = ports(&cni_conf_dir, &views).filter(|_| may_write);
        if let Some(ports) = ports {
            let script = script(&ports, BRIDGE);
            if applied.as_deref() != Some(&script) {
                if !ports.is_empty() {
                    route_loopback();
                }
                match nft.apply(&script).await {
                    Ok(()) => applied = Some(script),
                    Err(error) => tracing::error!(%error, "host ports are not served; it is tried again"),
                }
            }
        }
        tokio::select! {
            () = pool.context().addresses_changed.notified() => {}
            () = tokio::time::sleep(if settled { RESYNC_PERIOD } else { SETTLE_PERIOD }) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// True once every pod is known and the runtime has been asked about each.
fn is_settled(complete: bool, views: &[View]) -> bool {
    complete && views.iter().all(|view| view.snapshot.status.phase.is_some())
}

/// The ports to serve: none where the network is another plugin's. `None` if nobody can tell.
fn ports(cni_conf_dir: &Path, views: &[View]) -> Option<BTreeSet<HostPort>> {
    match cni::list(cni_conf_dir) {
        Ok(names) => {
            let own = cni::foreign(names.iter().map(String::as_str)).is_none();
            Some(if own { wanted(views) } else { BTreeSet::new() })
        }
        Err(error) => {
            tracing::warn!(%error, dir = %cni_conf_dir.display(), "host ports stay as they are");
            None
        }
    }
}

/// The bridge may carry answers to connections that began on the loopback.
fn route_loopback() {
    let path = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet");
    if let Err(error) = std::fs::write(&path, "1") {
        tracing::warn!(%error, path, "host ports do not answer on loopback addresses");
    }
}

/// The host ports of pods that have an address and still run.
fn wanted(views: &[View]) -> BTreeSet<HostPort> {
    let mut ports = BTreeSet::new();
    for view in views.iter().filter(|view| !spec::is_host_network(&view.pod)) {
        let Some(sandbox) = view.snapshot.observed.sandboxes.first().filter(|s| s.ready) else { continue };
        let addresses: Vec<IpAddr> = sandbox.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let sidecars = spec::init_containers(&view.pod).iter().filter(|c| spec::is_sidecar(c));
        for port in spec::containers(&view.pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten())
        {
            let Some(host_port) = port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)
            else {
                continue;
            };
            let host: Option<IpAddr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            let host = host.filter(|ip| !ip.is_unspecified());
            let fits = |pod: &&IpAddr| host.is_none_or(|host| Family::of(host) == Family::of(**pod));
            ports.extend(addresses.iter().filter(fits).map(|pod| HostPort {
                host,
                protocol: Protocol::parse(port.protocol.as_deref()),
                host_port,
                pod: *pod,
                pod_port: u16::try_from(port.container_port).unwrap_or(host_port),
            }));
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::worker::pod_worker::Snapshot;
    use k8s_openapi::api::core::v1::PodStatus;

    #[test]
    fn ports_are_known_once_every_pod_was_looked_at() {
        let view = |phase: Option<&str>| View {
            pod: Arc::default(),
            snapshot: Snapshot {
                status: Arc::new(PodStatus { phase: phase.map(str::to_owned), ..Default::default() }),
                ..Default::default()
            },
        };
        let (new, seen) = (view(None), view(Some("Running")));
        for (complete, views, expected) in [
            (false, vec![], false),
            (false, vec![seen.clone()], false),
            (true, vec![seen.clone(), new], false),
            (true, vec![seen], true),
            (true, vec![], true),
        ] {
            assert_eq!(is_settled(complete, &views), expected, "{complete} {}", views.len());
        }
    }

    #[test]
    fn a_folder_that_cannot_be_listed_says_nothing_about_ports() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert_eq!(ports(&file, &[]), None);
        assert_eq!(ports(&dir.path().join("none"), &[]), Some(BTreeSet::new()));
    }
}
