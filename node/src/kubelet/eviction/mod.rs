//! Eviction: when memory, disk or process ids run short, pods must go, the least deserving first; and pods that break
//! limits on their local storage must go in any case.
//!
//! [`thresholds`], [`choose`] and [`limits`] decide; this shell reads the machine and acts, one pod a look.

pub mod choose;
pub mod limits;
pub mod thresholds;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::choose::Candidate;
use self::limits::LocalUse;
use self::thresholds::{Due, Left, Resource, Signals, Threshold, Watch};
use super::config::Config;
use super::metrics;
use super::node::facts;
use super::pod::phase::Phase;
use super::pod::spec;
use super::pod::status::{EVICTED, Failure};
use super::stats::local::{ContainerUse, container_use, local_use};
use super::worker::pool::View;
use super::worker::{Pool, PoolEvent};

/// How often the machine is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// Seconds a pod's containers get when the machine cannot wait.
const HARD_GRACE_SECS: i64 = 1;
/// What evictions by limits on local storage are counted under (upstream's word).
const LOCAL_LIMIT: &str = "ephemeral.containerfs.limit";

/// The standing conditions.
#[derive(Default)]
pub struct Pressure {
    seen: Mutex<[Option<Instant>; 3]>,
    transition: Duration,
    /// Fires when a condition appears or goes.
    pub changed: Notify,
}

impl Pressure {
    /// No pressure; a condition stays for `transition` after its cause has gone, so that it does not flap.
    pub fn new(transition: Duration) -> Self {
        Self { transition, ..Self::default() }
    }

    /// What is short, or was a short while ago.
    pub fn current(&self) -> Signals {
        let standing = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < self.transition);
        let seen = self.seen.lock();
        Signals { memory: standing(&seen[0]), disk: standing(&seen[1]), pids: standing(&seen[2]) }
    }

    fn note(&self, signals: Signals) {
        let before = self.current();
        let mut seen = self.seen.lock();
        for (slot, short) in seen.iter_mut().zip([signals.memory, signals.disk, signals.pids]) {
            if short {
                *slot = Some(Instant::now());
            }
        }
        drop(seen);
        if self.current() != before {
            self.changed.notify_one();
        }
    }
}

/// Every threshold of the settings, hard ones first.
fn configured(config: &Config) -> Vec<Threshold> {
    let reclaim = |signal: &str| {
        config.eviction_minimum_reclaim.iter().find(|(s, _)| s == signal).map(|(_, v)| v.clone())
    };
    let hard = config.eviction_hard.iter().map(|(signal, value)| Threshold {
        signal: signal.clone(),
        value: value.clone(),
        grace: None,
        min_reclaim: reclaim(signal),
    });
    let soft = config.eviction_soft.iter().map(|(signal, value, grace)| Threshold {
        signal: signal.clone(),
        value: value.clone(),
        grace: Some(*grace),
        min_reclaim: reclaim(signal),
    });
    hard.chain(soft).collect()
}

fn look(root: &Path) -> Left {
    let (total, used) = facts::memory();
    let (capacity, free, inodes, inodes_free) = facts::disk(root).unwrap_or_default();
    let number = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let running = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running =
        running.split('/').nth(1).and_then(|t| t.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    let pids = number("/proc/sys/kernel/pid_max");
    let mut left = Left::from([
        ("memory.available", (total.saturating_sub(used), total)),
        ("pid.available", (pids.saturating_sub(running), pids)),
    ]);
    for signal in ["nodefs.available", "imagefs.available", "containerfs.available"] {
        left.insert(signal, (free, capacity));
    }
    for signal in ["nodefs.inodesFree", "imagefs.inodesFree", "containerfs.inodesFree"] {
        left.insert(signal, (inodes_free, inodes));
    }
    left
}

/// Watches the machine until the token fires.
pub async fn run(pool: Arc<Pool>, pressure: Arc<Pressure>, shutdown: CancellationToken) {
    let thresholds = configured(&pool.context().config);
    let started = Instant::now();
    let mut watch = Watch::default();
    loop {
        let left = look(&pool.context().config.root_dir);
        let (signals, due) = watch.look(&thresholds, &left, started.elapsed());
        pressure.note(signals);
        // Measuring every container costs the runtime something: only where it is needed.
        let needed = !due.is_empty() || pool.views().iter().any(|v| limits::has_limits(&v.pod));
        let usage = if needed { container_use(pool.context()).await } else { vec![] };
        let usage: Arc<[ContainerUse]> = usage.into();
        let (limited, measured) = (Arc::clone(&pool), Arc::clone(&usage));
        // Walks through the volumes' files: not on a thread where others wait.
        let walk = tokio::task::spawn_blocking(move || enforce_limits(&limited, &measured));
        if !walk.await.unwrap_or(false) && !due.is_empty() {
            relieve(&pool, &due, &left, &usage).await;
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn is_active(view: &View) -> bool {
    view.snapshot.status.phase.as_deref().and_then(Phase::parse).is_none_or(|p| !p.is_terminal())
}

/// Evicts every pod that breaks a limit of its own; true if there was one.
fn enforce_limits(pool: &Arc<Pool>, usage: &[ContainerUse]) -> bool {
    let mut any = false;
    for view in pool.views().iter().filter(|v| is_active(v) && limits::has_limits(&v.pod)) {
        if !choose::is_evictable(&view.pod) {
            continue;
        }
        if let Some(message) = limits::broken(&view.pod, &local_use(pool.context(), &view.pod, usage)) {
            any = true;
            evict(pool, view, LOCAL_LIMIT, message, HARD_GRACE_SECS);
        }
    }
    any
}

/// Frees what is short: first what nobody misses, then one pod.
async fn relieve(pool: &Arc<Pool>, due: &[Due], left: &Left, usage: &[ContainerUse]) {
    let Some(first) = due.first() else { return };
    let context = pool.context();
    let message = format!("Attempting to reclaim {}", first.resource.name());
    context.recorder.node(true, "EvictionThresholdMet", message);
    if matches!(first.resource, Resource::Disk | Resource::Inodes) {
        context.images.collect(u64::MAX).await;
        let (_, still) = Watch::default().look(
            std::slice::from_ref(&first.threshold),
            &look(&context.config.root_dir),
            Duration::MAX,
        );
        if first.threshold.grace.is_none() && still.is_empty() {
            return;
        }
    }
    let views: Vec<View> = pool.views().into_iter().filter(is_active).collect();
    let candidates: Vec<Candidate> =
        views.iter().map(|v| candidate(pool, v, first.resource, usage)).collect();
    let Some(chosen) = choose::choose(&candidates, first.resource) else {
        tracing::warn!(resource = first.resource.name(), "no pod can be evicted");
        return;
    };
    let all = left.get(first.threshold.signal.as_str()).map_or(0, |(_, all)| *all);
    let grace = match first.threshold.grace {
        None => HARD_GRACE_SECS,
        Some(_) => spec::termination_grace_secs(&chosen.pod).min(context.config.eviction_max_pod_grace_secs),
    };
    let message = choose::message(first, all, chosen);
    if let Some(view) = views.iter().find(|v| spec::uid(&v.pod) == spec::uid(&chosen.pod)) {
        evict(pool, view, &first.threshold.signal, message, grace);
    }
}

fn candidate(pool: &Pool, view: &View, resource: Resource, usage: &[ContainerUse]) -> Candidate {
    let pod = Arc::clone(&view.pod);
    let own = usage.iter().filter(|c| c.pod_uid == spec::uid(&pod));
    let (used, containers) = match resource {
        Resource::Memory => (
            pool.context().cgroups.usage(&pod).memory_working_set_bytes,
            own.map(|c| (c.name.clone(), c.memory_bytes)).collect(),
        ),
        Resource::Disk => {
            let local: LocalUse = local_use(pool.context(), &pod, usage);
            (local.total(), local.containers)
        }
        Resource::Inodes => (own.map(|c| c.writable_inodes).sum(), Default::default()),
        Resource::Pids => (pool.context().cgroups.usage(&pod).processes, Default::default()),
    };
    Candidate { pod, used, containers }
}

fn evict(pool: &Arc<Pool>, view: &View, signal: &str, message: String, grace_secs: i64) {
    metrics::count_eviction(signal);
    tracing::warn!(pod = spec::display(&view.pod), message, "evicting a pod");
    pool.context().recorder.pod(&view.pod, None, true, EVICTED, message.clone());
    let failure = Failure { reason: EVICTED.into(), message };
    pool.handle(PoolEvent::Evict { uid: spec::uid(&view.pod).to_owned(), failure, grace_secs });
}
