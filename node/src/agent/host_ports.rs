//! Keeps the host port rules in step with the pods of this machine, as long as the pod network is ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::BRIDGE;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;
use crate::network::cni;
use crate::network::host_ports::{HostPort, Protocol, script};
use crate::network::nft::Nft;
use crate::network::view::Family;

/// A refused or lost table is written again after this.
const RESYNC_PERIOD: Duration = Duration::from_secs(30);

/// Runs until the token fires. The rules stay, so that pods keep their ports while the agent is away.
pub async fn run(pool: Arc<Pool>, cni_conf_dir: PathBuf, shutdown: CancellationToken) {
    let nft = Nft::default();
    let mut applied: Option<String> = None;
    let mut resync = tokio::time::interval(RESYNC_PERIOD);
    loop {
        let own = cni::list(&cni_conf_dir)
            .is_ok_and(|names| cni::foreign(names.iter().map(String::as_str)).is_none());
        let ports = if own { wanted(&pool.views()) } else { BTreeSet::new() };
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
        tokio::select! {
            () = pool.context().addresses_changed.notified() => {}
            _ = resync.tick() => {}
            () = shutdown.cancelled() => return,
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
