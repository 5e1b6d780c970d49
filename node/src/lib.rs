//! One machine: kubelet, service proxy, pod network and cluster DNS.
//!
//! Entry points:
//! - [`agent::Agent::start`] runs everything a machine needs in one process; the one binary uses it in `up`.
//! - [`cli::run_kubelet`] and [`proxy::cli::run`] are drop-ins for upstream's `kubelet` and `kube-proxy`.
//! - [`hollow`] runs thousands of nodes without a runtime, for scale tests.
//!
//! The crate reaches the cluster through the Kubernetes API only, and never reads the store.

pub mod agent;
pub mod cli;
pub mod dns;
pub mod hollow;
pub mod kubelet;
pub mod network;
pub mod proxy;
pub mod runtime;

mod kernel_modules;
mod whole_file;
