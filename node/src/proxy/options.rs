//! How the proxy is set up.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use kube::Client;

use super::{conntrack::Limits, rules::LocalDetector};
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
}
