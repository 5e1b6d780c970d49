//! One loop per kind of promise: the controllers of kube-controller-manager.
//!
//! # Use
//! - `quarterdeck controller-manager` parses [`cli::Args`] and calls [`cli::run`].
//! - The one binary calls [`run`] with a client of its own (over HTTPS or over the API server's service in process)
//!   and [`options::Options`]; it takes part in leader election if told to and works until told to stop.
//!
//! # How a controller is written
//! A controller is a file (or folder) with one public `build(&mut Wiring) -> Box<dyn Controller>` and a row in
//! [`table::TABLE`].
//! - `build` asks for caches: [`runtime::Wiring::on_self`] (changes run the object's own key),
//!   [`runtime::Wiring::on_owned`] (changes run the owner's key), [`runtime::Wiring::on`] (a closure says which keys),
//!   [`runtime::Wiring::store`] (read only). Extra indexes are added with `Store::add_index`.
//! - [`runtime::Controller::reconcile`] is pure: it reads its caches and returns a [`runtime::Plan`]: writes
//!   ([`runtime::Action`], in batches), events ([`runtime::Note`], also attached to writes), a time to come back. What
//!   is in no cache is asked for ([`runtime::Ask`]): the runtime fetches it and reconciles again with the answer.
//! - A failed write ends the run; the key comes back with back-off and finds the failure in its
//!   [`runtime::Context`]. A key is never run while its caches are older than its own last write, so a controller
//!   needs no expectations of its own: it may simply compare what is with what should be.
//! - A run must not write one object twice (the second write would carry an old resourceVersion).
//! - Caches are trimmed (see [`runtime::trim`]): pods are patched, never updated whole.
//!
//! # How it is tested
//! `testing::check` for objects-in, writes-out cases; `testing::crash::check_crashes` for every controller.

pub mod admission_policy_status;
pub mod autoscaler;
pub mod bootstrap;
pub mod certificates;
pub mod claim;
pub mod cli;
pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod flags;
pub mod garbage;
pub mod hash;
pub mod history;
mod inert_flags;
pub mod job;
pub mod legacy_token_cleaner;
pub mod manager;
pub mod meta;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_route;
pub mod node_ttl;
pub mod nodes;
pub mod options;
pub mod pod_gc;
pub mod pods;
pub mod replicaset;
pub mod resourcequota;
pub mod root_ca;
pub mod runtime;
pub mod selector;
pub mod serve;
pub mod service_cidr;
pub mod service_lb;
pub mod service_pods;
pub mod serviceaccount;
pub mod serviceaccount_token;
pub mod statefulset;
pub mod table;
pub mod taint_eviction;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod trigger_time;
pub mod ttl_after_finished;
pub mod volumes;

use tokio_util::sync::CancellationToken;

/// Runs the selected controllers with one client until `stop`: the entry of the one binary. The client may speak
/// HTTPS or call the API server's service in the same process. Leader election is the caller's ([`cli::run`] does
/// both).
///
/// # Errors
/// Only for settings that cannot work.
pub async fn run(
    client: kube::Client,
    options: options::Options,
    stop: CancellationToken,
) -> Result<(), cli::AnyError> {
    let clients = manager::Clients { watching: client.clone(), process: client, anonymous: None };
    run_with(clients, options, stop).await
}

/// The same with the clients that service account credentials need.
///
/// # Errors
/// Only for settings that cannot work.
pub async fn run_with(
    clients: manager::Clients,
    options: options::Options,
    stop: CancellationToken,
) -> Result<(), cli::AnyError> {
    let events = std::sync::Arc::new(runtime::events::Recording::new(clients.process.clone()));
    manager::run(clients, options, events, stop).await.map_err(Into::into)
}
