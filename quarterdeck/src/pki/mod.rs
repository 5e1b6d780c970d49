//! The cluster's own authorities and the certificates every server holds.
//!
//! Three authorities, as upstream's installers have them: `ca` signs API servers, components and nodes; `store-ca`
//! signs store members and their clients; `front-proxy-ca` signs aggregation proxies. Authorities are made once, by
//! the first server, and travel to joining servers with the join. Leaves are made by each server for itself and
//! renewed when a third of their life is left.

pub mod authority;
pub mod files;
pub mod leaves;

use std::net::IpAddr;
use std::time::Duration;

/// Life of an authority: ten years.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 86_400);

/// What distinguishes one server's certificates from another's.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The server's name, also its store member's.
    pub name: String,
    /// Addresses other machines use.
    pub addresses: Vec<IpAddr>,
    /// Further names for the serving certificates (a load balancer's, a public name).
    pub extra_names: Vec<String>,
    /// The first address of the service range: the `kubernetes` service.
    pub service_address: IpAddr,
    /// `cluster.local` unless told.
    pub cluster_domain: String,
    /// Life of a leaf; [`leaves::renew`] replaces it when a third is left.
    pub leaf_life: Duration,
}
