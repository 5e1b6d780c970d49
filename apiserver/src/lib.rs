//! The Kubernetes 1.36 API from one pipeline over any etcd v3 store.

pub mod admission;
pub mod alloc;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod contract;
pub mod kinds;
pub mod reviews;
pub mod tokens;
