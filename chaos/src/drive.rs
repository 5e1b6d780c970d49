//! The clients' side of a run, the same against real members and simulated ones: drive, wait for the faults to be over,
//! prove liveness, read everything once more, judge.
//!
//! Waiting is by tokio's time, so that a simulation's virtual clock rules here too.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkers::watch::{Log, Watch};
use crate::checkers::{self, Verdict};
use crate::clients::{Clients, Endpoints};
use crate::clock::Clock;
use crate::cluster::Result;
use crate::history::{Action, History, Operation, Outcome, Process};
use crate::plan::{Plan, Window};
use crate::workloads::{Workload, WorkloadKind, watch};

/// A process whose connection broke waits so long before the next.
const RECONNECT: Duration = Duration::from_millis(50);
/// Pause between two rounds of the historian.
const HISTORIAN_PAUSE: Duration = Duration::from_secs(1);
/// A cluster that goes on changing leaders so long after healing is given up on.
const REST_LIMIT: Duration = Duration::from_secs(120);
const REST_POLL: Duration = Duration::from_millis(500);
/// A single question about a member's term.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts to have the members' hashes, which takes a busy machine longer than a client waits.
const HASH_ATTEMPTS: u32 = 20;

/// The cluster under test, as clients and the plan meet it.
#[async_trait]
pub trait Members: Endpoints {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn name(&self, member: usize) -> String;

    /// A client of all members, or of one that works.
    async fn any_client(&self) -> Result<Client>;

    /// The clients that carry the workload out; the run's clock begins.
    async fn clients(self: Arc<Self>, workload: WorkloadKind) -> Result<Box<dyn Clients>>;

    /// Carries out the plan, window by window; returns what was done once its duration is over.
    async fn inflict(&self, plan: &Plan, clock: Clock) -> Result<Vec<Window>>;

    /// History from this revision on is still to be read: no fault may compact it.
    fn keep_from(&self, revision: i64);

    /// Undoes whatever a fault left undone and waits until every member answers.
    async fn heal(&self) -> Result<()>;
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct Script {
    pub plan: Plan,
    pub processes: u32,
    pub workload: WorkloadKind,
    /// The longest pause of a process between operations.
    pub pause_max: Duration,
}

/// What a run left to be reported.
pub struct Outcomes {
    pub plan: Plan,
    pub history: History,
    pub windows: Vec<Window>,
    pub verdicts: Vec<(String, Verdict)>,
    /// Seconds the checkers took.
    pub judged_secs: f64,
}

impl Outcomes {
    /// The windows in which not all was done that was planned.
    pub fn not_inflicted(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| !window.is_whole)
    }

    /// The run convicts nobody, and nothing was left unknown.
    pub fn is_valid(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Valid)
    }
}

/// Shared by the processes of a run.
struct Stage {
    members: Arc<dyn Members>,
    clients: Box<dyn Clients>,
    /// Decides what is done; the clients do it.
    workload: Box<dyn Workload>,
    operations: Mutex<Vec<Operation>>,
    log: Mutex<Log>,
    stop: CancellationToken,
    pause_max: Duration,
}

/// Plays the script to its end. `Err` is a failure of the harness; a store that misbehaves is in the verdicts.
pub async fn play(members: Arc<dyn Members>, script: Script) -> Result<Outcomes> {
    let workload = script.workload.build();
    workload.set_up(&mut members.any_client().await?).await?;
    let clients = members.clone().clients(script.workload).await?;
    let stage = Arc::new(Stage {
        members,
        clients,
        workload,
        operations: Mutex::default(),
        log: Mutex::default(),
        stop: CancellationToken::new(),
        pause_max: script.pause_max,
    });
    if stage.workload.watched().is_some() {
        stage.members.keep_from(1);
    }
    let mut processes = JoinSet::new();
    for number in 0..script.processes {
        let rng = script.plan.seed.rng(100 + u64::from(number));
        processes.spawn(stage.clone().process(Process(number), rng));
    }
    let watchers = stage.clone().watchers();
    let historian = tokio::spawn(stage.clone().keep_history());
    let windows = stage.members.inflict(&script.plan, stage.clients.clock()).await?;
    stage.stop.cancel();
    while processes.join_next().await.is_some() {}
    stage.members.heal().await?;
    let lively = checkers::liveness::check(&stage.first_writes().await);
    let mut verdicts = vec![("liveness after healing".to_owned(), lively)];
    if !stage.last_reads(script.processes).await {
        let why = format!(
            "it changed leaders for {REST_LIMIT:?} after healing: what outlives its time was not read"
        );
        verdicts.push(("the cluster comes to rest".to_owned(), Verdict::Unknown { why }));
    }
    verdicts.push(("members hold the same bytes".to_owned(), stage.judge_hashes().await));
    let mut watches = Vec::new();
    for watcher in watchers {
        watches.extend(watcher.await.unwrap_or_default());
    }
    // It ended with the processes; a panic in it shows as an incomplete log below.
    let _ = historian.await;
    stage.clients.finish().await?;
    let mut operations = std::mem::take(&mut *stage.operations.lock());
    operations.sort_by_key(|operation| operation.invoked);
    let history = History { operations };
    let began = std::time::Instant::now();
    if stage.workload.watched().is_some() {
        verdicts.push(("watches".to_owned(), stage.judge_watches(&watches).await));
    }
    verdicts.extend(judge(stage.workload.as_ref(), &history));
    let judged_secs = began.elapsed().as_secs_f64();
    Ok(Outcomes { plan: script.plan, history, windows, verdicts, judged_secs })
}

/// The workload's own checkers, and the one that holds for every workload.
pub fn judge(workload: &dyn Workload, history: &History) -> Vec<(String, Verdict)> {
    let mut verdicts: Vec<(String, Verdict)> =
        workload.judge(history).into_iter().map(|(name, verdict)| (name.to_owned(), verdict)).collect();
    let revisions = checkers::revisions::check(history, workload.writes_alone());
    verdicts.push(("revisions follow real time".to_owned(), revisions));
    verdicts
}

impl Stage {
    fn watchers(self: Arc<Self>) -> Vec<JoinHandle<Vec<Watch>>> {
        let Some(prefix) = self.workload.watched() else { return Vec::new() };
        let follow = |member| {
            let stage = self.clone();
            tokio::spawn(async move { stage.clients.follow(member, prefix, stage.stop.child_token()).await })
        };
        (0..self.members.len()).map(follow).collect()
    }

    /// Reads the log of what is watched as the run goes, so that it is known even where history is compacted. Compacts
    /// itself, where the workload wants it, only what it has read.
    async fn keep_history(self: Arc<Self>) {
        let Some(prefix) = self.workload.watched() else { return };
        while !self.stop.is_cancelled() {
            let known = self.log.lock().keys().next_back().copied().unwrap_or(0);
            match watch::read_log(self.members.as_ref(), prefix, known + 1).await {
                Ok(more) => {
                    let upto = more.keys().next_back().copied().unwrap_or(known);
                    self.log.lock().extend(more);
                    self.members.keep_from(upto + 1);
                    if let Some(keep) = self.workload.compacts()
                        && upto > keep
                        && let Ok(mut client) = self.members.any_client().await
                    {
                        // A refusal changes nothing: the next round asks again.
                        let _ = client.compact(upto - keep, None).await;
                    }
                }
                Err(error) => tracing::debug!(%error, "the historian could not read"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(HISTORIAN_PAUSE) => {}
            }
        }
    }

    /// One client, bound to one member: what that member answers is what it is judged by.
    async fn process(self: Arc<Self>, process: Process, mut rng: StdRng) {
        let member = process.0 as usize % self.members.len();
        while !self.stop.is_cancelled() {
            let action = self.workload.next(process, &mut rng);
            if !self.perform(process, member, action).await {
                tokio::time::sleep(RECONNECT).await;
            }
            let pause = self.pause_max.mul_f64(rng.random());
            tokio::time::sleep(pause).await;
        }
    }

    /// Has one operation carried out and records it. `false` where the member did not answer.
    async fn perform(&self, process: Process, member: usize, action: Action) -> bool {
        let Some(done) = self.clients.perform(process, member, action).await else { return false };
        if matches!(done.operation.outcome, Outcome::Unknown { .. }) {
            self.workload.lost_track();
        }
        self.workload.completed(&done.operation);
        self.operations.lock().push(done.operation);
        done.answered
    }

    /// How long every member takes to its first write.
    async fn first_writes(&self) -> Vec<(String, Option<Duration>)> {
        let mut found = Vec::new();
        for member in 0..self.members.len() {
            let began = Instant::now();
            let write = async {
                loop {
                    if let Ok(mut client) = self.members.client(member).await
                        && client.put("liveness", member.to_string(), None).await.is_ok()
                    {
                        return;
                    }
                    tokio::time::sleep(RECONNECT).await;
                }
            };
            let written = tokio::time::timeout(checkers::liveness::BOUND, write).await;
            found.push((self.members.name(member), written.ok().map(|()| began.elapsed())));
        }
        found
    }

    /// Reads everything once at every member, as new processes. `false`, and nothing is read: the cluster did not come
    /// to rest.
    async fn last_reads(&self, first_process: u32) -> bool {
        if !self.come_to_rest(self.workload.settle()).await {
            return false;
        }
        for member in 0..self.members.len() {
            let process = Process(first_process + member as u32);
            for action in self.workload.last_reads() {
                self.perform(process, member, action).await;
            }
        }
        true
    }

    /// Waits until no new leader has been elected for so long.
    async fn come_to_rest(&self, lasts: Duration) -> bool {
        let began = Instant::now();
        let (mut term, mut since) = (0, began);
        while since.elapsed() < lasts {
            if began.elapsed() > REST_LIMIT {
                return false;
            }
            let newest = self.newest_term().await;
            if newest > term {
                (term, since) = (newest, Instant::now());
            }
            tokio::time::sleep(REST_POLL).await;
        }
        true
    }

    async fn newest_term(&self) -> u64 {
        let mut newest = 0;
        for member in 0..self.members.len() {
            let Ok(mut client) = self.members.client(member).await else { continue };
            if let Ok(Ok(status)) = tokio::time::timeout(STATUS_TIMEOUT, client.status()).await {
                newest = newest.max(status.raft_term());
            }
        }
        newest
    }

    async fn judge_hashes(&self) -> Verdict {
        let mut attempt = 1;
        loop {
            match self.hashes().await {
                Ok(hashes) => return checkers::hashes::check(&hashes),
                Err(error) if attempt < HASH_ATTEMPTS => tracing::info!(%error, "no hashes yet"),
                Err(error) => return Verdict::Unknown { why: error.to_string() },
            }
            attempt += 1;
            tokio::time::sleep(REST_POLL).await;
        }
    }

    /// Hash of every member's key space, at one revision.
    async fn hashes(&self) -> Result<Vec<(String, u32)>> {
        let probe = self.members.any_client().await?.get("hash-probe", None).await?;
        let revision = probe.header().map_or(0, |header| header.revision());
        let mut hashes = Vec::new();
        for member in 0..self.members.len() {
            let mut client = self.members.client(member).await?;
            // The member may be a few entries behind; a linearizable read brings it up.
            client.get("hash-probe", None).await?;
            hashes.push((self.members.name(member), client.hash_kv(revision).await?.hash()));
        }
        Ok(hashes)
    }

    async fn judge_watches(&self, watches: &[Watch]) -> Verdict {
        if watches.iter().all(|watch| watch.responses.iter().all(|response| response.events.is_empty())) {
            return Verdict::Unknown { why: "no watcher was sent an event".to_owned() };
        }
        match self.read_watched().await {
            Ok((log, compacted)) => checkers::watch::check(&log, compacted, watches),
            Err(error) => Verdict::Unknown { why: format!("the log could not be read: {error}") },
        }
    }

    /// The whole log of what is watched, and up to where it is compacted.
    async fn read_watched(&self) -> Result<(Log, i64)> {
        let mut log = std::mem::take(&mut *self.log.lock());
        let known = log.keys().next_back().copied().unwrap_or(0);
        let prefix = self.workload.watched().unwrap_or_default();
        log.extend(watch::read_log(self.members.as_ref(), prefix, known + 1).await?);
        let compacted = watch::compacted(self.members.as_ref(), prefix).await?;
        Ok((log, compacted))
    }
}
