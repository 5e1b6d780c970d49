//! How the pod network is set up.

use std::path::PathBuf;

use ipnet::IpNet;
use kube::Client;

use super::{
    feed::{Kind, Subscription},
    nft::Nft,
};

/// The kinds that the pod network reads.
pub const NEEDS: &[Kind] = &[Kind::Node];

/// How the pod network is set up; [`Options::new`] gives the defaults.
pub struct Options {
    /// Reaches the API server.
    pub client: Client,
    /// This node's name.
    pub node_name: String,
    /// Shared watches; `None` opens watches of its own.
    pub feed: Option<Subscription>,
    /// Where the runtime looks for CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Where host-local keeps addresses that are in use. Must differ between nodes that share a file system.
    pub state_dir: PathBuf,
    /// Pod ranges of this node while the Node object names none.
    pub pod_cidrs: Vec<IpNet>,
    /// Ranges of all pods, if known: traffic to them is never masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Name of the bridge for pods.
    pub bridge: String,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Runs packet filter scripts.
    pub nft: Nft,
}

impl Options {
    /// Defaults for a machine with one node.
    pub fn new(client: Client, node_name: impl Into<String>) -> Self {
        Self {
            client,
            node_name: node_name.into(),
            feed: None,
            cni_conf_dir: PathBuf::from("/etc/cni/net.d"),
            state_dir: PathBuf::from("/var/lib/cni/networks"),
            pod_cidrs: Vec::new(),
            cluster_cidrs: Vec::new(),
            bridge: "qd0".to_owned(),
            vxlan_port: 4_789,
            nft: Nft::default(),
        }
    }
}
