//! Cluster DNS, answered by every node's own agent.
//!
//! [`zone::Zone`] is the pure core: services, endpoints and namespaces in, records out, by the Kubernetes DNS
//! specification 1.1.0. Nothing is stored per name; an answer is computed from the objects. Names outside the cluster
//! go to upstream servers through a cache ([`forward`]). The server listens at the cluster DNS address itself, which
//! stands on the loopback interface of every node, outside of connection tracking: pods reach their own node's server
//! without any rewriting of addresses.
//!
//! Before the API's objects are known, cluster names are answered SERVFAIL, which makes clients retry, and readiness
//! is false.

mod address;
mod cache;
pub mod forward;
mod options;
mod resolv_conf;
mod reverse;
mod server;
mod shell;
mod stats;
mod wire;
pub mod zone;

pub use options::{NEEDS, Options, Outside, OutsideError};
pub use server::Resolver;
pub use shell::{Error, run};
