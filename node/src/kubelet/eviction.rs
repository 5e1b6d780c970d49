//! Eviction: when memory, disk or process ids run short, pods must go, the least deserving first. The choice is
//! pure; the shell reads the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::node::facts;
use super::node::reporter::threshold_bytes;
use super::pod::phase::Phase;
use super::pod::qos::SYSTEM_CRITICAL_PRIORITY;
use super::pod::spec;
use super::pod::status::Failure;
use super::quantity;
use super::stats::usage::PodUsage;
use super::worker::admission::requests;
use super::worker::{Pool, PoolEvent};

/// How often the machine is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// A condition stays this long after its cause has gone, so that it does not flap.
const TRANSITION_PERIOD: Duration = Duration::from_secs(300);
/// Seconds an evicted pod's containers get at most: the machine cannot wait.
const GRACE_SECS: i64 = 1;

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Memory.
    pub memory: bool,
    /// A disk or its inodes.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

/// The standing conditions.
#[derive(Default)]
pub struct Pressure {
    seen: Mutex<[Option<Instant>; 3]>,
    /// Fires when a condition appears.
    pub changed: Notify,
}

impl Pressure {
    /// What is short, or was a short while ago.
    pub fn current(&self) -> Signals {
        let standing = |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < TRANSITION_PERIOD);
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

/// One pod as a candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses of the short resource, bytes.
    pub used_bytes: u64,
}

/// The pod to evict for `resource`: one that uses more than it asked for, of the lowest priority, with the
/// largest excess. Critical and static pods stay.
pub fn choose<'a>(candidates: &'a [Candidate], resource: &str) -> Option<&'a Candidate> {
    let excess = |c: &Candidate| i128::from(c.used_bytes) - requests(&c.pod, resource) / quantity::NANO;
    let priority = |c: &Candidate| spec::spec(&c.pod).priority.unwrap_or(0);
    let evictable = |c: &&Candidate| {
        !spec::is_static(&c.pod)
            && priority(c) < SYSTEM_CRITICAL_PRIORITY
            && c.pod.metadata.deletion_timestamp.is_none()
    };
    candidates
        .iter()
        .filter(evictable)
        .min_by_key(|c| (excess(c) <= 0, priority(c), std::cmp::Reverse(excess(c))))
}

/// What the machine has left.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    memory: (u64, u64),
    disk: (u64, u64),
    inodes: (u64, u64),
    pids: (u64, u64),
}

fn short(thresholds: &[(String, String)], signal: &str, (left, all): (u64, u64)) -> bool {
    let threshold = thresholds.iter().find(|(s, _)| s == signal);
    all > 0 && threshold.is_some_and(|(_, text)| left < threshold_bytes(text, all))
}

fn signals(thresholds: &[(String, String)], left: &Left) -> Signals {
    let any = |signals: &[(&str, (u64, u64))]| signals.iter().any(|(s, v)| short(thresholds, s, *v));
    Signals {
        memory: any(&[("memory.available", left.memory)]),
        disk: any(&[
            ("nodefs.available", left.disk),
            ("imagefs.available", left.disk),
            ("nodefs.inodesFree", left.inodes),
            ("imagefs.inodesFree", left.inodes),
        ]),
        pids: any(&[("pid.available", left.pids)]),
    }
}

fn look(root: &std::path::Path) -> Left {
    let (total, used) = facts::memory();
    let disk = facts::disk(root).unwrap_or_default();
    let number = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let running = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running =
        running.split('/').nth(1).and_then(|t| t.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    let pids = number("/proc/sys/kernel/pid_max");
    Left {
        memory: (total.saturating_sub(used), total),
        disk: (disk.1, disk.0),
        inodes: (disk.3, disk.2),
        pids: (pids.saturating_sub(running), pids),
    }
}

/// Watches the machine until the token fires.
pub async fn run(pool: Arc<Pool>, pressure: Arc<Pressure>, shutdown: CancellationToken) {
    let root: PathBuf = pool.context().config.root_dir.clone();
    loop {
        let thresholds = &pool.context().config.eviction_hard;
        let left = look(&root);
        let signals = signals(thresholds, &left);
        pressure.note(signals);
        if signals.memory {
            evict(&pool, "memory", "memory", |u| u.memory_working_set_bytes);
        } else if signals.disk {
            pool.context().images.collect(u64::MAX).await;
            if self::signals(thresholds, &look(&root)).disk {
                evict(&pool, "ephemeral-storage", "ephemeral-storage", |u| u.disk_bytes);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn evict(pool: &Arc<Pool>, resource: &str, word: &str, used: impl Fn(&PodUsage) -> u64) {
    let candidates: Vec<Candidate> = pool
        .views()
        .into_iter()
        .filter(|v| {
            v.snapshot.status.phase.as_deref().and_then(Phase::parse).is_none_or(|p| !p.is_terminal())
        })
        .map(|v| {
            let usage = super::stats::usage::of_pod(pool.context(), &v.pod);
            Candidate { used_bytes: used(&usage), pod: v.pod }
        })
        .collect();
    let Some(chosen) = choose(&candidates, resource) else { return };
    let message = format!("The node was low on resource: {word}. ");
    tracing::warn!(pod = spec::display(&chosen.pod), message, "evicting a pod");
    pool.context().recorder.pod(&chosen.pod, None, true, "Evicted", message.clone());
    let failure = Failure { reason: "Evicted".into(), message };
    let uid = spec::uid(&chosen.pod).to_owned();
    pool.handle(PoolEvent::Evict { uid, failure, grace_secs: GRACE_SECS });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request_mi: u64, used_mi: u64) -> Candidate {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"memory": format!("{request_mi}Mi")}}}]}}))
        .expect("a pod");
        Candidate { pod: Arc::new(pod), used_bytes: used_mi << 20 }
    }

    fn check(candidates: &[Candidate], expected: Option<&str>) {
        assert_eq!(choose(candidates, "memory").map(|c| spec::name(&c.pod)), expected);
    }

    #[test]
    fn excess_then_priority_then_amount() {
        check(&[candidate("within", 0, 100, 50), candidate("over", 10, 10, 50)], Some("over"));
        check(&[candidate("low", 0, 10, 20), candidate("high", 5, 10, 500)], Some("low"));
        check(&[candidate("a", 0, 10, 20), candidate("b", 0, 10, 90)], Some("b"));
        check(&[candidate("critical", SYSTEM_CRITICAL_PRIORITY, 0, 90)], None);
        check(&[], None);
    }

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let thresholds = [
            ("memory.available".to_owned(), "100Mi".to_owned()),
            ("nodefs.available".to_owned(), "10%".to_owned()),
        ];
        let left =
            |memory, disk| Left { memory: (memory, 1 << 30), disk: (disk, 1000), ..Default::default() };
        assert_eq!(signals(&thresholds, &left(200 << 20, 101)), Signals::default());
        assert_eq!(
            signals(&thresholds, &left(99 << 20, 99)),
            Signals { memory: true, disk: true, pids: false }
        );
    }
}
