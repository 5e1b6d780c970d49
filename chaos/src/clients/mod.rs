//! Where operations are carried out: by etcd clients of this process ([`local`]), or by those of several processes of
//! the operating system ([`processes`]), which are this program again and report over pipes ([`wire`]).
//!
//! What is to be done is decided in one place either way, under the run's seed; when it was done is noted by whoever did
//! it, on one clock.

pub mod local;
pub mod processes;
pub mod wire;

use async_trait::async_trait;
use etcd_client::Client;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::checkers::watch::Watch;
use crate::clock::Clock;
use crate::cluster::Result;
use crate::history::{Action, Operation, Process};

/// How a member is reached.
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// A client of one member only, so that what that member alone believes can be heard.
    async fn client(&self, member: usize) -> Result<Client>;
}

/// An operation that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub operation: Operation,
    /// Whether the member answered at all; if not, the process's next operation has a new connection.
    pub answered: bool,
}

/// All clients of a run.
#[async_trait]
pub trait Clients: Send + Sync {
    /// By which operations are timed.
    fn clock(&self) -> Clock;

    /// Carries out one operation as this process, by its connection to this member. `None`: nothing was sent, since no
    /// connection could be had.
    async fn perform(&self, process: Process, member: usize, action: Action) -> Option<Done>;

    /// Follows a prefix at a member until stopped.
    async fn follow(&self, member: usize, prefix: &str, stop: CancellationToken) -> Vec<Watch>;

    /// Ends the clients. An error if some ended before.
    async fn finish(&self) -> Result<()>;
}
