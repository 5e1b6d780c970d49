//! One run against real members: start them, play the script while faults are inflicted, keep what came of it.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::Client;

use crate::clients::local::Local;
use crate::clients::processes::Processes;
use crate::clients::{Clients, Endpoints};
use crate::clock::Clock;
use crate::cluster::{Cluster, Error, Ground, Program, Result};
use crate::drive::{self, Members, Outcomes};
use crate::faults::{self, Inflicted};
use crate::history::History;
use crate::plan::{Plan, Window};
use crate::trial::Trial;
use crate::workloads::WorkloadKind;

/// Real members, and clients in processes of their own.
struct Real {
    cluster: Cluster,
    /// Processes of the operating system that the clients are spread over; zero: all in this one.
    client_processes: usize,
}

/// Where a run takes place.
pub struct Stand<'a> {
    pub ground: Ground,
    pub program: Program,
    /// Folder of this run: data, logs, history and report.
    pub root: &'a Path,
    /// Processes of the operating system that the clients are spread over; zero: all in this one.
    pub client_processes: usize,
}

/// Runs to the end. `Err` is a failure of the harness; a store that misbehaves is in the verdicts.
pub async fn run(trial: &Trial, stand: Stand<'_>) -> Result<Outcomes> {
    let Stand { ground, program, root, client_processes } = stand;
    // Members of a run without such faults keep the disk they would have.
    let faulty_disks =
        nix::unistd::geteuid().is_root() && trial.faults.iter().any(|fault| fault.needs_faulty_disk());
    let cluster = Cluster::start_all(ground, program, root, trial.members, faulty_disks).await?;
    let script = trial.script(|fault| cluster.supports(fault));
    let outcomes = drive::play(Arc::new(Real { cluster, client_processes }), script).await?;
    save(root, &outcomes.history)?;
    Ok(outcomes)
}

#[async_trait]
impl Endpoints for Real {
    async fn client(&self, member: usize) -> Result<Client> {
        self.cluster.client(member).await
    }
}

#[async_trait]
impl Members for Real {
    fn len(&self) -> usize {
        self.cluster.len()
    }

    fn name(&self, member: usize) -> String {
        self.cluster.name(member)
    }

    async fn any_client(&self) -> Result<Client> {
        self.cluster.any_client().await
    }

    async fn clients(self: Arc<Self>, workload: WorkloadKind) -> Result<Box<dyn Clients>> {
        if self.client_processes == 0 {
            return Ok(Box::new(Local::new(self, workload.build(), Clock::start_shared())));
        }
        let urls = self.cluster.client_urls();
        Ok(Box::new(Processes::start(self.client_processes, workload, urls).await?))
    }

    async fn inflict(&self, plan: &Plan, clock: Clock) -> Result<Vec<Window>> {
        let mut windows = Vec::new();
        for step in &plan.steps {
            clock.reach(step.at).await;
            let from = clock.now();
            let Inflicted { is_whole, what } = faults::run(step, &self.cluster).await?;
            let fault = step.name();
            tracing::info!(fault, is_whole, what, "a fault window ended");
            windows.push(Window { from, to: clock.now(), fault, is_whole, what });
        }
        clock.reach(plan.duration).await;
        Ok(windows)
    }

    fn keep_from(&self, revision: i64) {
        self.cluster.keep_from(revision);
    }

    async fn heal(&self) -> Result<()> {
        self.cluster.heal().await
    }
}

/// Keeps the history, as JSON lines and in Jepsen's form.
pub fn save(root: &Path, history: &History) -> Result<()> {
    let path = root.join("history.jsonl");
    let write = || {
        let mut lines = Vec::new();
        history.write_json_lines(&mut lines)?;
        std::fs::write(&path, lines)?;
        std::fs::write(root.join("history.edn"), history.to_edn())
    };
    write().map_err(|error| Error::Io { path: path.clone(), error })
}
