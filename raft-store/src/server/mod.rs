//! The sockets: etcd's services on the client port, consensus on the peer port, metrics where asked for.
//!
//! Each service turns a gRPC call into a call of the member and back; none decides anything itself.

mod access;
mod auth;
mod authority;
mod cluster;
mod descriptors;
mod election;
pub(crate) mod gateway;
mod http;
mod identity;
mod kv;
mod lease;
mod listen;
mod lock;
mod maintenance;
mod mutex;
mod probes;
mod range;
mod routes;
mod services;
mod socket;
mod watch;
mod wire;

pub use routes::{serve_clients, serve_peers};
