//! How the DNS server is set up.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use kube::Client;
use tokio::sync::watch;

use crate::network::{
    feed::{Kind, Subscription},
    nft::Nft,
};

/// The kinds that DNS reads.
pub const NEEDS: &[Kind] = &[Kind::Service, Kind::Slice, Kind::Namespace];

/// How the DNS server is set up; [`Options::new`] gives the defaults.
pub struct Options {
    /// Reaches the API server.
    pub client: Client,
    /// Shared watches; `None` opens watches of its own.
    pub feed: Option<Subscription>,
    /// Addresses to answer at: the cluster DNS address, one a family.
    pub listen_ips: Vec<IpAddr>,
    /// Port to answer at.
    pub port: u16,
    /// Put the addresses on the loopback interface and take them out of connection tracking.
    pub manage_addresses: bool,
    /// The cluster's domain, without dots at its ends.
    pub cluster_domain: String,
    /// Seconds that clients may keep an answer about the cluster.
    pub ttl_secs: u32,
    /// Upstream servers; empty means those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Where upstream servers are listed.
    pub resolv_conf: PathBuf,
    /// Domains with servers of their own.
    pub stub_domains: Vec<(String, Vec<SocketAddr>)>,
    /// Where `/ready`, `/health` and `/metrics` are served.
    pub http_bind: Option<SocketAddr>,
    /// Becomes true once every object of the API is known.
    pub ready: Arc<watch::Sender<bool>>,
    /// Runs packet filter scripts.
    pub nft: Nft,
}

impl Options {
    /// Defaults for a cluster whose DNS address is the first of `listen_ips`.
    pub fn new(client: Client, listen_ips: Vec<IpAddr>) -> Self {
        Self {
            client,
            feed: None,
            listen_ips,
            port: 53,
            manage_addresses: true,
            cluster_domain: "cluster.local".to_owned(),
            ttl_secs: 5,
            upstreams: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            stub_domains: Vec::new(),
            http_bind: None,
            ready: Arc::new(watch::Sender::new(false)),
            nft: Nft::default(),
        }
    }
}
