//! Clients of this process: a connection for each of a run's processes, and the watchers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Clients, Done, Endpoints};
use crate::checkers::watch::Watch;
use crate::clock::Clock;
use crate::cluster::Result;
use crate::history::{Action, Operation, Outcome, Process};
use crate::workloads::{Workload, classify, watch};

/// An operation that takes longer has an unknown outcome, and its process goes on with a new connection.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The clients, as tasks.
pub struct Local {
    endpoints: Arc<dyn Endpoints>,
    workload: Box<dyn Workload>,
    clock: Clock,
    /// Connections between operations; one under way has its own in hand.
    idle: Mutex<HashMap<Process, Client>>,
}

impl Local {
    /// `workload` carries operations out; it is not asked for any.
    pub fn new(endpoints: Arc<dyn Endpoints>, workload: Box<dyn Workload>, clock: Clock) -> Self {
        Local { endpoints, workload, clock, idle: Mutex::default() }
    }
}

#[async_trait]
impl Clients for Local {
    fn clock(&self) -> Clock {
        self.clock
    }

    async fn perform(&self, process: Process, member: usize, action: Action) -> Option<Done> {
        let idle = self.idle.lock().remove(&process);
        let mut client = match idle {
            Some(client) => client,
            None => self.endpoints.client(member).await.ok()?,
        };
        let invoked = self.clock.now();
        let applied =
            tokio::time::timeout(OPERATION_TIMEOUT, self.workload.apply(&mut client, &action)).await;
        let completed = self.clock.now();
        let answered = matches!(applied, Ok(Ok(_)));
        let outcome = match applied {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => classify(&action, &error),
            Err(_) => Outcome::Unknown { error: "timed out".to_owned() },
        };
        if answered {
            self.idle.lock().insert(process, client);
        }
        Some(Done { operation: Operation { process, invoked, completed, action, outcome }, answered })
    }

    async fn follow(&self, member: usize, prefix: &str, stop: CancellationToken) -> Vec<Watch> {
        watch::follow(self.endpoints.as_ref(), member, prefix, stop).await
    }

    async fn finish(&self) -> Result<()> {
        self.idle.lock().clear();
        Ok(())
    }
}
