//! One run against real members: start them, play the script while faults are inflicted, keep what came of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;

use crate::cluster::{Cluster, Error, Ground, Program, Result};
use crate::drive::{self, Clock, Members, Outcomes, Script};
use crate::faults::{self, FaultKind};
use crate::history::History;
use crate::plan::{Plan, Seed, Window};
use crate::workloads::WorkloadKind;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: Seed,
    pub duration: Duration,
    pub members: usize,
    pub processes: u32,
    pub workload: WorkloadKind,
    pub faults: Vec<FaultKind>,
    /// Faults at work at the same time.
    pub combine: usize,
    pub program: Program,
    /// The longest pause of a process between operations.
    pub pause_max: Duration,
    /// Folder of this run: data, logs, history and report.
    pub root: PathBuf,
}

/// Runs to the end. `Err` is a failure of the harness; a store that misbehaves is in the verdicts.
pub async fn run(options: &Options, ground: Ground) -> Result<Outcomes> {
    // Members of a run without such faults keep the disk they would have.
    let faulty_disks =
        nix::unistd::geteuid().is_root() && options.faults.iter().any(|fault| fault.needs_faulty_disk());
    let (program, root) = (options.program.clone(), &options.root);
    let cluster = Arc::new(Cluster::start_all(ground, program, root, options.members, faulty_disks).await?);
    let allowed: Vec<FaultKind> =
        options.faults.iter().copied().filter(|fault| cluster.supports(*fault)).collect();
    let plan = Plan::new(options.seed, options.duration, &allowed, options.combine);
    let script = Script {
        plan,
        processes: options.processes,
        workload: options.workload,
        pause_max: options.pause_max,
    };
    let outcomes = drive::play(cluster, script).await?;
    save(&options.root, &outcomes.history)?;
    Ok(outcomes)
}

#[async_trait]
impl Members for Cluster {
    fn len(&self) -> usize {
        Cluster::len(self)
    }

    fn name(&self, member: usize) -> String {
        Cluster::name(self, member)
    }

    async fn client(&self, member: usize) -> Result<Client> {
        Cluster::client(self, member).await
    }

    async fn any_client(&self) -> Result<Client> {
        Cluster::any_client(self).await
    }

    async fn inflict(&self, plan: &Plan, clock: Clock) -> Result<Vec<Window>> {
        let mut windows = Vec::new();
        for step in &plan.steps {
            clock.reach(step.at).await;
            let from = clock.now();
            let what = faults::run(step, self).await?;
            let fault = step.name();
            tracing::info!(fault, what, "a fault window ended");
            windows.push(Window { from, to: clock.now(), fault, what });
        }
        clock.reach(plan.duration).await;
        Ok(windows)
    }

    async fn heal(&self) -> Result<()> {
        Cluster::heal(self).await
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
