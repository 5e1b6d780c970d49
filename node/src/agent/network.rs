//! Starts the service proxy, the cluster DNS and the pod network beside the kubelet, over one set of watches.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{BRIDGE, Settings, agent_file};
use crate::cli::AnyError;
use crate::kubelet::config::Config;
use crate::network::feed::Hub;
use crate::runtime::supervisor::Supervisor;
use crate::{dns, network, proxy};

/// The running parts.
pub struct Parts(JoinSet<()>);

impl Parts {
    /// Waits until all have ended, after the token fired.
    pub async fn ended(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Parses `10.42.0.0/16,fd00::/56`.
fn ranges(text: &str) -> Result<Vec<IpNet>, AnyError> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.map(|p| p.parse().map_err(|e| format!("{p}: {e}").into())).collect()
}

/// Where the runtime looks for CNI configurations.
pub fn cni_conf_dir(supervisor: Option<&Supervisor>) -> PathBuf {
    supervisor.map_or_else(|| PathBuf::from("/etc/cni/net.d"), |s| s.paths().cni_conf_dir)
}

/// Starts all three.
pub fn start(
    client: &Client,
    config: &Config,
    settings: &Settings,
    supervisor: Option<&Supervisor>,
    shutdown: &CancellationToken,
) -> Result<Parts, AnyError> {
    let cluster = ranges(&settings.cluster_cidr)?;
    let mut hub = Hub::new(client.clone());
    let mut proxy_options = proxy::Options::new(client.clone(), config.node_name.clone());
    proxy_options.feed = Some(hub.subscribe(proxy::NEEDS));
    proxy_options.node_ips.clone_from(&config.node_ips);
    proxy_options.cluster_cidrs.clone_from(&cluster);
    let mut network_options = network::Options::new(client.clone(), config.node_name.clone());
    network_options.feed = Some(hub.subscribe(network::NEEDS));
    network_options.cluster_cidrs = cluster;
    network_options.state_dir = agent_file(config, "cni-addresses");
    network_options.cni_conf_dir = cni_conf_dir(supervisor);
    network_options.bridge = BRIDGE.to_owned();
    let servers: Vec<IpAddr> = config.dns.servers.iter().filter_map(|s| s.parse().ok()).collect();
    let mut dns_options = dns::Options::new(client.clone(), servers.clone());
    dns_options.feed = Some(hub.subscribe(dns::NEEDS));
    dns_options.cluster_domain.clone_from(&config.dns.domain);
    dns_options.upstreams.clone_from(&settings.outside_names.upstreams);
    dns_options.stub_domains.clone_from(&settings.outside_names.stub_domains);

    let mut parts = JoinSet::new();
    parts.spawn(hub.run(shutdown.clone()));
    let token = shutdown.clone();
    parts.spawn(async move { ended("service proxy", proxy::run(proxy_options, token).await) });
    let token = shutdown.clone();
    parts.spawn(async move { ended("pod network", network::run(network_options, token).await) });
    if !servers.is_empty() {
        let token = shutdown.clone();
        parts.spawn(async move { ended("cluster DNS", dns::run(dns_options, token).await) });
    }
    Ok(Parts(parts))
}

fn ended(part: &str, result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        tracing::error!(part, %error, "a part of the agent could not go on");
    }
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(ranges("10.42.0.0/16, fd00::/56").map(|r| r.len()).ok(), Some(2));
        assert_eq!(ranges("").map(|r| r.len()).ok(), Some(0));
        assert!(ranges("10.42.0.0/33").is_err());
    }
}
