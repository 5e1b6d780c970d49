//! One run: start, drive, break, heal, prove liveness, judge.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checkers::watch::Watch;
use crate::checkers::{self, Verdict};
use crate::cluster::{Cluster, Ground, Program, Result};
use crate::faults::{self, FaultKind};
use crate::history::{Action, History, Nanos, Operation, Outcome, Process};
use crate::plan::{Plan, Seed};
use crate::workloads::{Workload, WorkloadKind, classify};

/// An operation that takes longer has an unknown outcome, and its process goes on with a new connection.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);
/// After healing, writes must succeed within this.
const LIVENESS_BOUND: Duration = Duration::from_secs(10);
/// A process whose connection broke waits so long before the next.
const RECONNECT: Duration = Duration::from_millis(50);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: Seed,
    pub duration: Duration,
    pub members: usize,
    pub processes: u32,
    pub workload: WorkloadKind,
    pub faults: Vec<FaultKind>,
    pub program: Program,
    /// The longest pause of a process between operations.
    pub pause_max: Duration,
    /// Folder of this run: data, logs, history and report.
    pub root: PathBuf,
}

/// A fault window as it really was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub from: Nanos,
    pub to: Nanos,
    pub fault: FaultKind,
    pub what: String,
}

/// What a run left to be judged and reported.
pub struct Outcomes {
    pub plan: Plan,
    pub history: History,
    pub windows: Vec<Window>,
    pub verdicts: Vec<(String, Verdict)>,
}

impl Outcomes {
    /// The run convicts nobody, and nothing was left unknown.
    pub fn is_valid(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Valid)
    }
}

/// Shared by the processes of a run.
struct Stage {
    cluster: Cluster,
    workload: Box<dyn Workload>,
    started: Instant,
    operations: Mutex<Vec<Operation>>,
    stop: CancellationToken,
    pause_max: Duration,
}

/// Runs to the end. `Err` is a failure of the harness; a store that misbehaves is in the verdicts.
pub async fn run(options: &Options, ground: Ground) -> Result<Outcomes> {
    let cluster = Cluster::start_all(ground, options.program.clone(), &options.root, options.members).await?;
    let allowed: Vec<FaultKind> =
        options.faults.iter().copied().filter(|fault| cluster.supports(*fault)).collect();
    let plan = Plan::new(options.seed, options.duration, &allowed);
    let workload = options.workload.build();
    workload.set_up(&mut cluster.any_client().await?).await?;
    let stage = Arc::new(Stage {
        cluster,
        workload,
        started: Instant::now(),
        operations: Mutex::new(Vec::new()),
        stop: CancellationToken::new(),
        pause_max: options.pause_max,
    });
    let mut processes = JoinSet::new();
    for number in 0..options.processes {
        processes.spawn(stage.clone().process(Process(number), options.seed.rng(100 + u64::from(number))));
    }
    let watchers = stage.clone().watchers(options.workload);
    let windows = inflict(&stage, &plan).await?;
    stage.stop.cancel();
    while processes.join_next().await.is_some() {}
    stage.cluster.heal().await?;
    let mut verdicts = vec![("liveness after healing".to_owned(), stage.liveness().await)];
    stage.clone().last_reads(options.processes).await;
    verdicts.push(("members hold the same bytes".to_owned(), judge_hashes(&stage.cluster).await));
    let mut watches = Vec::new();
    for watcher in watchers {
        watches.extend(watcher.await.unwrap_or_default());
    }
    let mut operations = std::mem::take(&mut *stage.operations.lock());
    operations.sort_by_key(|operation| operation.invoked);
    let history = History { operations };
    verdicts
        .extend(stage.workload.judge(&history).into_iter().map(|(name, verdict)| (name.to_owned(), verdict)));
    if options.workload == WorkloadKind::Watch {
        verdicts.push(("watches".to_owned(), judge_watches(&stage.cluster, &watches).await?));
    }
    save(&options.root, &history)?;
    Ok(Outcomes { plan, history, windows, verdicts })
}

/// Carries out the plan, window by window, until the duration is over.
async fn inflict(stage: &Stage, plan: &Plan) -> Result<Vec<Window>> {
    let mut windows = Vec::new();
    for step in &plan.steps {
        tokio::time::sleep_until((stage.started + step.at).into()).await;
        let from = stage.now();
        let what = match faults::run(step, &stage.cluster).await {
            Ok(what) => what,
            // A fault that could not be done whole (a command of it met a dead member) is undone, and the run goes on.
            Err(error) => {
                stage.cluster.heal().await?;
                format!("not done whole: {error}")
            }
        };
        tracing::info!(fault = %step.fault, what, "a fault window ended");
        windows.push(Window { from, to: stage.now(), fault: step.fault, what });
    }
    tokio::time::sleep_until((stage.started + plan.duration).into()).await;
    Ok(windows)
}

impl Stage {
    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn watchers(self: Arc<Self>, workload: WorkloadKind) -> Vec<tokio::task::JoinHandle<Vec<Watch>>> {
        if workload != WorkloadKind::Watch {
            return Vec::new();
        }
        let follow = |member| {
            let stage = self.clone();
            tokio::spawn(async move {
                crate::workloads::watch::follow(&stage.cluster, member, stage.stop.child_token()).await
            })
        };
        (0..self.cluster.len()).map(follow).collect()
    }

    /// One client, bound to one member: what that member answers is what it is judged by.
    async fn process(self: Arc<Self>, process: Process, mut rng: StdRng) {
        use rand::Rng;
        let member = process.0 as usize % self.cluster.len();
        let mut client = None;
        while !self.stop.is_cancelled() {
            if client.is_none() {
                client = self.cluster.client(member).await.ok();
            }
            let Some(connected) = client.as_mut() else {
                tokio::time::sleep(RECONNECT).await;
                continue;
            };
            let action = self.workload.next(&mut rng);
            if self.perform(process, connected, action).await.is_none() {
                client = None;
                tokio::time::sleep(RECONNECT).await;
            }
            let pause = self.pause_max.mul_f64(rng.random());
            tokio::time::sleep(pause).await;
        }
    }

    /// Carries out one operation and records it. `None` where nothing is known of its end.
    async fn perform(
        &self,
        process: Process,
        client: &mut etcd_client::Client,
        action: Action,
    ) -> Option<()> {
        let invoked = self.now();
        let applied = tokio::time::timeout(OPERATION_TIMEOUT, self.workload.apply(client, &action)).await;
        let outcome = match applied {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => classify(&action, &error),
            Err(_) => Outcome::Unknown { error: "timed out".to_owned() },
        };
        if matches!(outcome, Outcome::Unknown { .. }) {
            self.workload.lost_track();
        }
        let known = matches!(outcome, Outcome::Ok { .. }).then_some(());
        self.operations.lock().push(Operation { process, invoked, completed: self.now(), action, outcome });
        known
    }

    /// Writes succeed at every member again.
    async fn liveness(&self) -> Verdict {
        for member in 0..self.cluster.len() {
            let write = async {
                loop {
                    if let Ok(mut client) = self.cluster.client(member).await
                        && client.put("liveness", member.to_string(), None).await.is_ok()
                    {
                        return;
                    }
                    tokio::time::sleep(RECONNECT).await;
                }
            };
            if tokio::time::timeout(LIVENESS_BOUND, write).await.is_err() {
                let why = format!(
                    "no write through {} in {LIVENESS_BOUND:?} after healing",
                    self.cluster.name(member)
                );
                return Verdict::Invalid { why, evidence: Vec::new() };
            }
        }
        Verdict::Valid
    }

    /// Reads everything once at every member, as new processes.
    async fn last_reads(self: Arc<Self>, first_process: u32) {
        for member in 0..self.cluster.len() {
            let process = Process(first_process + member as u32);
            let Ok(mut client) = self.cluster.client(member).await else { continue };
            for action in self.workload.last_reads() {
                self.perform(process, &mut client, action).await;
            }
        }
    }
}

async fn judge_hashes(cluster: &Cluster) -> Verdict {
    match cluster.hashes().await {
        Ok(hashes) if hashes.windows(2).all(|pair| pair[0].1 == pair[1].1) => Verdict::Valid,
        Ok(hashes) => Verdict::Invalid {
            why: "HashKV differs at one revision".to_owned(),
            evidence: hashes.iter().map(|(name, hash)| format!("{name}: {hash:#010x}")).collect(),
        },
        Err(error) => Verdict::Unknown { why: error.to_string() },
    }
}

async fn judge_watches(cluster: &Cluster, watches: &[Watch]) -> Result<Verdict> {
    if watches.iter().all(|watch| watch.responses.iter().all(|response| response.events.is_empty())) {
        return Ok(Verdict::Unknown { why: "no watcher was sent an event".to_owned() });
    }
    let log = crate::workloads::watch::read_log(cluster).await?;
    Ok(checkers::watch::check(&log, watches))
}

fn save(root: &Path, history: &History) -> Result<()> {
    let path = root.join("history.jsonl");
    let write = || {
        let mut lines = Vec::new();
        history.write_json_lines(&mut lines)?;
        std::fs::write(&path, lines)?;
        std::fs::write(root.join("history.edn"), history.to_edn())
    };
    write().map_err(|error| crate::cluster::Error::Io { path: path.clone(), error })
}
