//! How the proxy is set up.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use kube::Client;

use super::{
    conntrack::Limits,
    core::CoreConfig,
    rules::{LocalDetector, Settings},
};
use crate::network::{
    feed::{Kind, Subscription},
    nft::Nft,
};

/// The kinds that the proxy reads.
pub const NEEDS: &[Kind] =
    &[Kind::Service, Kind::Slice, Kind::Node, Kind::Namespace, Kind::Policy, Kind::Pod];

/// Which local addresses answer on node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's internal addresses.
    Primary,
    /// Every local address but loopback.
    All,
    /// Local addresses inside these ranges.
    Within(Vec<IpNet>),
}

/// How the proxy is set up; [`Options::new`] gives the defaults.
pub struct Options {
    /// Reaches the API server.
    pub client: Client,
    /// This node's name.
    pub node_name: String,
    /// Shared watches; `None` opens watches of its own.
    pub feed: Option<Subscription>,
    /// This node's addresses, until the Node object tells.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of pods whose traffic counts as inside; empty means this node's own pod ranges.
    pub cluster_cidrs: Vec<IpNet>,
    /// Another way to tell local traffic; overrides `cluster_cidrs`.
    pub local: Option<LocalDetector>,
    /// Where `/healthz` and `/livez` are served.
    pub healthz_bind: Option<SocketAddr>,
    /// Where `/metrics` is served.
    pub metrics_bind: Option<SocketAddr>,
    /// An address that is taken ends the proxy instead of being logged.
    pub bind_hard_fail: bool,
    /// Which local addresses answer on node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Enforce network policies.
    pub policies: bool,
    /// Masquerade everything sent to cluster addresses.
    pub masquerade_all: bool,
    /// Bit of the packet mark that asks for masquerading.
    pub masquerade_bit: u8,
    /// Shortest time between two writes.
    pub min_sync: Duration,
    /// How often the table is checked for existence.
    pub sync_period: Duration,
    /// Limits on tracked connections; `None` leaves the kernel's.
    pub conntrack: Option<Limits>,
    /// Runs scripts.
    pub nft: Nft,
}

impl Options {
    /// Defaults of upstream's nftables mode, except that nothing waits between two writes: one costs milliseconds, and
    /// changes that arrive meanwhile go into the next one.
    pub fn new(client: Client, node_name: impl Into<String>) -> Self {
        Self {
            client,
            node_name: node_name.into(),
            feed: None,
            node_ips: Vec::new(),
            cluster_cidrs: Vec::new(),
            local: None,
            healthz_bind: Some(SocketAddr::from(([0, 0, 0, 0], 10_256))),
            metrics_bind: Some(SocketAddr::from(([127, 0, 0, 1], 10_249))),
            bind_hard_fail: false,
            node_port_addresses: NodePortAddresses::Primary,
            policies: true,
            masquerade_all: false,
            masquerade_bit: 14,
            min_sync: Duration::ZERO,
            sync_period: Duration::from_secs(30),
            conntrack: Some(Limits::default()),
            nft: Nft::default(),
        }
    }
    /// What the core has to know of them. Reads this machine's interfaces where node ports are bound to ranges.
    pub(super) fn core_config(&self) -> CoreConfig {
        let local = match (&self.local, self.cluster_cidrs.is_empty()) {
            (Some(local), _) => local.clone(),
            (None, false) => LocalDetector::Cidrs(self.cluster_cidrs.clone()),
            (None, true) => LocalDetector::Unknown,
        };
        let node_port_ips = match &self.node_port_addresses {
            NodePortAddresses::All => None,
            NodePortAddresses::Primary => Some(self.node_ips.clone()),
            NodePortAddresses::Within(ranges) => Some(
                local_addresses()
                    .into_iter()
                    .filter(|ip| ranges.iter().any(|range| range.contains(ip)))
                    .collect(),
            ),
        };
        CoreConfig {
            node_name: self.node_name.clone(),
            settings: Settings {
                masquerade_bit: self.masquerade_bit,
                masquerade_all: self.masquerade_all,
                local,
                node_port_ips,
                node_ips: self.node_ips.clone(),
            },
            local_from_node: self.local.is_none() && self.cluster_cidrs.is_empty(),
            node_ports_on_node_ips: self.node_port_addresses == NodePortAddresses::Primary,
            policies: self.policies,
        }
    }
}

/// Addresses of this machine's interfaces.
fn local_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let address = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(|interface| interface.address.and_then(address)).collect()
}
