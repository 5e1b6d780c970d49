//! The one binary from outside: whole clusters under load and faults, what administrators do to them, what is refused,
//! `make run`, and what the node promises. Everything here starts real processes of the built binary, on addresses and
//! folders of its own.

mod agents;
mod api_clients;
mod availability;
mod backup;
mod certificates;
mod commands;
mod common;
mod configuration;
mod ground;
mod kube_rs;
#[path = "../support/kubectl.rs"]
mod kubectl;
mod load;
mod membership;
mod node_tour;
mod orderly;
mod refusals;
mod up;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The promise: clients with a list of servers see at most this without a successful write.
const WRITE_GAP_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// Tests that measure time, or need the whole machine, run alone; the others beside each other.
static MACHINE: RwLock<()> = RwLock::const_new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.blocking_write()
}

async fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}
