//! One member of the store: the shell that ties consensus, the state machine and the watch hub together, and
//! the requests it answers.
//!
//! Requests that change anything go through the log, batched; reads that must be linearizable wait for a
//! read index, shared by all that wait at the same time; everything else is answered from the newest view.
//! Does not know gRPC or sockets; see `server` for those.

mod auth;
mod background;
mod caller;
mod cluster;
mod compare;
mod consensus_thread;
mod embedded;
mod gather;
mod handle;
pub mod identity;
mod joint;
#[cfg(test)]
mod joint_test;
mod kv;
pub mod layout;
mod leadership;
mod leases;
mod maintenance;
mod membership;
mod newcomer;
mod peer_service;
mod propose;
mod read;
mod space;
mod standing;
mod start;
mod succession;

pub use caller::Caller;
pub use handle::Member;
pub use maintenance::{CLUSTER_VERSION, SERVER_VERSION};
pub use peer_service::PeerService;
pub use start::StartError;
