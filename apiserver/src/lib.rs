//! The Kubernetes 1.36 API from one pipeline over any etcd v3 store.
//!
//! In one process with other roles: [`cli::start`] (or [`server::Server::start`] with [`server::Options`]) gives a
//! [`server::Handle`] with the bound address; cancel its token to drain and stop. As a command: [`cli::run`].
//!
//! Reading order: [`contract`] is the seam between machinery and meaning. Machinery: [`storage`], [`cache`],
//! [`registry`], [`crd`], [`table`], [`subresources`], [`http`], [`metrics`], [`server`]. Meaning: [`authn`], [`authz`],
//! [`admission`], [`kinds`], [`alloc`], [`tokens`], [`reviews`], [`bootstrap`]. Of its own: [`metrics_api`].

pub mod admission;
pub mod alloc;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
pub mod cli;
pub mod compaction;
pub mod contract;
pub mod crd;
pub mod http;
mod inert_flags;
pub mod kinds;
pub mod metrics;
pub mod metrics_api;
pub mod registry;
pub mod reviews;
pub mod server;
pub mod storage;
pub mod subresources;
pub mod table;
#[cfg(test)]
mod testing;
pub mod tokens;
