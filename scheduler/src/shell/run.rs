//! The shell around the core: informers feed it, one task owns it, a bounded number of calls carry out what it says.
//!
//! Owns the loop and its limits. Invariants: the core is touched by one task only; nothing is scheduled before
//! every kind has been listed; no more than `IN_FLIGHT_MAX` decisions wait for the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::core::intake::Intake;
use crate::core::scheduler::{Command, PodRef, Scheduler};
use crate::core::spec::TimeMs;

use super::execute::Executor;
use super::kinds::{Kind, ReplicaSet, StatefulSet};
use super::reflector::Reflector;
use super::wire;

/// Messages that may wait for the core: informers pause behind that.
const INBOX_MAX: usize = 64;
/// Decisions whose API calls are under way: behind that the core waits, so that assumptions stay few.
const IN_FLIGHT_MAX: usize = 2000;
/// Pods scheduled between looks at the inbox.
const BURST: usize = 32;
/// Between flushes of pods that were parked too long.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Idle time between ticks of back-off.
const TICK: Duration = Duration::from_millis(100);
/// Watched kinds, each of which must be listed before scheduling starts.
pub const KINDS: usize = 15;

/// What the core is told.
#[derive(Debug)]
pub enum Message {
    Intake(Vec<Intake>),
    /// A kind has been listed in full.
    Synced(&'static str),
    Bound {
        pod: PodRef,
    },
    BindFailed {
        pod: PodRef,
        error: String,
    },
    PreemptionDone {
        preemptor: PodRef,
        victims: Vec<PodRef>,
        failed: bool,
    },
    /// A call that reports nothing back has ended.
    Reported,
}

/// Milliseconds since the epoch.
pub fn now_ms() -> TimeMs {
    jiff::Timestamp::now().as_millisecond()
}

/// Starts an informer for every kind.
pub fn start_informers(
    client: &kube::Client,
    out: &Sender<Message>,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    fn start<K: Kind>(
        c: &kube::Client,
        out: &Sender<Message>,
        s: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        tasks.spawn(Reflector::<K>::new(c.clone(), out.clone()).run(s.clone()));
    }
    start::<wire::Node>(client, out, shutdown, tasks);
    start::<wire::Pod>(client, out, shutdown, tasks);
    start::<wire::Namespace>(client, out, shutdown, tasks);
    start::<wire::Service>(client, out, shutdown, tasks);
    start::<wire::ReplicationController>(client, out, shutdown, tasks);
    start::<ReplicaSet>(client, out, shutdown, tasks);
    start::<StatefulSet>(client, out, shutdown, tasks);
    start::<wire::Budget>(client, out, shutdown, tasks);
    start::<wire::PersistentVolume>(client, out, shutdown, tasks);
    start::<wire::PersistentVolumeClaim>(client, out, shutdown, tasks);
    start::<wire::StorageClass>(client, out, shutdown, tasks);
    start::<wire::CsiNode>(client, out, shutdown, tasks);
    start::<wire::CsiDriver>(client, out, shutdown, tasks);
    start::<wire::CsiStorageCapacity>(client, out, shutdown, tasks);
    start::<wire::VolumeAttachment>(client, out, shutdown, tasks);
}

/// The running core.
pub struct Loop {
    pub core: Scheduler,
    inbox: Receiver<Message>,
    executor: Executor,
    /// Kinds listed so far.
    synced: std::collections::HashSet<&'static str>,
    in_flight: usize,
    metrics: Arc<super::metrics::Metrics>,
    /// The lease is held.
    leading: Arc<AtomicBool>,
    /// Every kind has been listed.
    ready: Arc<AtomicBool>,
    /// Pods bound without confirmation at the last flush.
    suspects: Vec<PodRef>,
}

/// A place for messages, and where to read them.
pub fn inbox() -> (Sender<Message>, Receiver<Message>) {
    mpsc::channel(INBOX_MAX)
}

impl Loop {
    /// A loop that reads `inbox` and hands commands to `executor`.
    pub fn new(
        core: Scheduler,
        inbox: Receiver<Message>,
        executor: Executor,
        metrics: Arc<super::metrics::Metrics>,
        leading: Arc<AtomicBool>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        Loop {
            core,
            inbox,
            executor,
            synced: Default::default(),
            in_flight: 0,
            metrics,
            leading,
            ready,
            suspects: Vec::new(),
        }
    }

    /// Runs until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let busy = self.schedule_burst();
            if busy {
                while let Ok(message) = self.inbox.try_recv() {
                    self.handle(message);
                }
                tokio::task::yield_now().await;
                if shutdown.is_cancelled() {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                _ = flush.tick() => self.flush(),
                _ = tick.tick() => {
                    self.core.queue.tick(now_ms());
                    self.metrics.observe_queue(self.core.queue.pending(), self.core.cluster.pod_count());
                }
                () = std::future::ready(()), if busy => {}
            }
        }
    }

    /// Retries what was parked too long, and looks up pods that have been unconfirmed since the last flush.
    fn flush(&mut self) {
        self.core.queue.flush_parked(now_ms());
        let unconfirmed = self.core.unconfirmed();
        for pod in unconfirmed.iter().filter(|p| self.suspects.contains(p)) {
            self.executor.verify(pod.clone());
        }
        self.suspects = unconfirmed;
    }

    fn handle(&mut self, message: Message) {
        let now = now_ms();
        match message {
            Message::Intake(batch) => batch.into_iter().for_each(|intake| self.core.apply(intake, now)),
            Message::Synced(kind) => {
                self.synced.insert(kind);
                self.ready.store(self.synced.len() >= KINDS, Ordering::Relaxed);
            }
            Message::Bound { pod } => {
                self.in_flight -= 1;
                self.core.bound(&pod.uid);
            }
            Message::BindFailed { pod, error } => {
                self.in_flight -= 1;
                let commands = self.core.bind_failed(&pod.uid, error, now);
                self.execute(commands);
            }
            Message::PreemptionDone { preemptor, victims, failed } => {
                self.in_flight -= 1;
                self.core.preemption_done(&preemptor.uid, &victims, failed, now);
            }
            Message::Reported => self.in_flight -= 1,
        }
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            self.in_flight += 1;
            self.executor.execute(command);
        }
    }

    /// Schedules some pods; false when there is nothing to do.
    fn schedule_burst(&mut self) -> bool {
        for done in 0..BURST {
            if !self.leading.load(Ordering::SeqCst) || !self.ready.load(Ordering::Relaxed) {
                return false;
            }
            if self.in_flight >= IN_FLIGHT_MAX {
                return done > 0;
            }
            let start = std::time::Instant::now();
            let before = self.core.counters;
            let Some(commands) = self.core.schedule_one(now_ms()) else { return done > 0 };
            let profile = commands.first().and_then(Command::profile).and_then(|i| self.core.profiles.get(i));
            if let Some(profile) = profile {
                let name = &profile.scheduler_name;
                self.metrics.observe_attempt(name, before, self.core.counters, start.elapsed());
            }
            self.execute(commands);
        }
        true
    }
}
