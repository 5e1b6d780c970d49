//! A keyed work queue: each key waits at most once, never runs twice at a time, backs off after failures and can
//! be asked to come back later. The core is a plain value that is told the time; [`Queue`] is the shell around it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;

use super::clock::Clock;
use super::key::Key;
use super::metrics::QueueMetrics;

/// First delay after a failure; doubles with each further one. Upstream's ItemExponentialFailureRateLimiter.
pub const BACKOFF_BASE: Duration = Duration::from_millis(5);
/// The longest delay after a failure. Upstream's ItemExponentialFailureRateLimiter.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// The delay after the `failures`-th failure in a row (0 is the first).
pub fn backoff(failures: u32) -> Duration {
    // 2^18 * 5 ms is past the cap already, so larger powers need no computing.
    BACKOFF_BASE.saturating_mul(1 << failures.min(18)).min(BACKOFF_MAX)
}

/// The queue as a value; every method that depends on time is given it.
#[derive(Default)]
pub struct QueueCore {
    ready: VecDeque<Key>,
    /// Keys that need a run: those in `ready`, and those to be queued again when their present run ends.
    dirty: FxHashMap<Key, Duration>,
    running: FxHashMap<Key, Duration>,
    delayed: BinaryHeap<Reverse<(Duration, Key)>>,
    /// The earliest moment each delayed key is due; heap entries that disagree are stale.
    due: FxHashMap<Key, Duration>,
    failures: FxHashMap<Key, u32>,
}

impl QueueCore {
    /// Asks for a run of `key`. Returns false when it was waiting already.
    pub fn add(&mut self, key: Key, now: Duration) -> bool {
        if self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        if !self.running.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }

    /// Asks for a run of `key` at `at`; an earlier wish for the same key wins.
    pub fn add_at(&mut self, key: Key, at: Duration) {
        if self.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        self.due.insert(key.clone(), at);
        self.delayed.push(Reverse((at, key)));
    }

    /// Takes the next key to run, with how long it waited.
    pub fn pop(&mut self, now: Duration) -> Option<(Key, Duration)> {
        self.release_due(now);
        let key = self.ready.pop_front()?;
        let added = self.dirty.remove(&key).unwrap_or(now);
        self.running.insert(key.clone(), now);
        Some((key, now.saturating_sub(added)))
    }

    /// Ends a run; a key asked for meanwhile is queued again. Returns how long the run took.
    pub fn done(&mut self, key: &Key, now: Duration) -> Duration {
        let started = self.running.remove(key).unwrap_or(now);
        if self.dirty.contains_key(key) {
            self.ready.push_back(key.clone());
        }
        now.saturating_sub(started)
    }

    /// Counts a failure and asks for a run after the back-off. Returns the delay.
    pub fn fail(&mut self, key: &Key, now: Duration) -> Duration {
        let count = self.failures.entry(key.clone()).or_insert(0);
        let delay = backoff(*count);
        *count += 1;
        self.add_at(key.clone(), now + delay);
        delay
    }

    /// Forgets a key's failures.
    pub fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// How often in a row a key has failed.
    pub fn failures(&self, key: &Key) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// Keys ready to run.
    pub fn depth(&self) -> usize {
        self.ready.len()
    }

    /// Whether nothing runs and nothing is ready (delayed keys may exist).
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.running.is_empty()
    }

    /// When the next delayed key is due.
    pub fn next_due(&mut self) -> Option<Duration> {
        while let Some(Reverse((at, key))) = self.delayed.peek() {
            if self.due.get(key) == Some(at) {
                return Some(*at);
            }
            self.delayed.pop();
        }
        None
    }

    /// Since when the keys now running run.
    pub fn running_since(&self) -> impl Iterator<Item = Duration> + '_ {
        self.running.values().copied()
    }

    fn release_due(&mut self, now: Duration) {
        while self.next_due().is_some_and(|at| at <= now) {
            if let Some(Reverse((_, key))) = self.delayed.pop() {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
    }
}

/// The queue shared by informers (which add) and workers (which take).
pub struct Queue {
    core: Mutex<QueueCore>,
    wake: Notify,
    clock: Arc<dyn Clock>,
    metrics: QueueMetrics,
}

impl Queue {
    /// An empty queue of the controller `name`.
    pub fn new(name: &str, clock: Arc<dyn Clock>) -> Arc<Self> {
        let metrics = QueueMetrics::of(name);
        Arc::new(Self { core: Mutex::default(), wake: Notify::new(), clock, metrics })
    }

    /// Asks for a run of `key` after `delay` (zero: now).
    pub fn add(&self, key: Key, delay: Duration) {
        let now = self.clock.monotonic();
        {
            let mut core = self.core.lock();
            if !delay.is_zero() {
                core.add_at(key, now + delay);
            } else if core.add(key, now) {
                self.metrics.adds.inc();
                self.metrics.depth.set(core.depth() as f64);
            }
        }
        self.wake.notify_one();
    }

    /// Takes a key if one is ready.
    pub fn try_pop(&self) -> Option<Key> {
        let mut core = self.core.lock();
        let (key, waited) = core.pop(self.clock.monotonic())?;
        self.metrics.queue_duration.observe(waited.as_secs_f64());
        self.metrics.depth.set(core.depth() as f64);
        if core.depth() > 0 {
            self.wake.notify_one();
        }
        Some(key)
    }

    /// Waits for a key. The caller must end the run with [`Queue::finish`].
    pub async fn pop(&self) -> Key {
        loop {
            if let Some(key) = self.try_pop() {
                return key;
            }
            let due = self.next_due();
            let woken = self.wake.notified();
            match due {
                None => woken.await,
                Some(delay) => {
                    // Whichever comes first; a timeout just means that a delayed key is due.
                    let _ = tokio::time::timeout(delay, woken).await;
                }
            }
        }
    }

    /// How long until the next delayed key is due.
    pub fn next_due(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        self.core.lock().next_due().map(|at| at.saturating_sub(now))
    }

    /// Ends a run: how it ended decides when the key comes back.
    pub fn finish(&self, key: &Key, end: RunEnd) {
        let now = self.clock.monotonic();
        let mut core = self.core.lock();
        match end {
            RunEnd::Done { again_after } => {
                core.forget(key);
                if let Some(delay) = again_after {
                    core.add_at(key.clone(), now + delay);
                }
            }
            RunEnd::Failed => {
                self.metrics.retries.inc();
                core.fail(key, now);
            }
            RunEnd::Parked { recheck_after } => core.add_at(key.clone(), now + recheck_after),
        }
        let took = core.done(key, now);
        self.metrics.work_duration.observe(took.as_secs_f64());
        self.metrics.depth.set(core.depth() as f64);
        drop(core);
        self.wake.notify_one();
    }

    /// Whether nothing runs and nothing is ready.
    pub fn is_idle(&self) -> bool {
        self.core.lock().is_idle()
    }

    /// Refreshes the gauges that change by mere waiting.
    pub fn observe_running(&self) {
        let now = self.clock.monotonic();
        let core = self.core.lock();
        let ages = core.running_since().map(|since| now.saturating_sub(since).as_secs_f64());
        let (sum, longest) = ages.fold((0.0, 0.0_f64), |(sum, max), age| (sum + age, max.max(age)));
        self.metrics.unfinished.set(sum);
        self.metrics.longest_running.set(longest);
    }
}

/// How a run of a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// It succeeded; come back after the delay, if any.
    Done {
        /// When to run again without any event.
        again_after: Option<Duration>,
    },
    /// It failed; come back after the back-off.
    Failed,
    /// It did not run because the cache was older than the key's own last write.
    Parked {
        /// When to look again, should no event wake the key before.
        recheck_after: Duration,
    },
}

/// Collects keys while an informer's handlers run.
pub struct Enqueue<'a> {
    queue: &'a Queue,
    seen: FxHashSet<Key>,
}

impl<'a> Enqueue<'a> {
    /// A collector that feeds `queue`.
    pub fn into_queue(queue: &'a Queue) -> Self {
        Self { queue, seen: FxHashSet::default() }
    }

    /// Asks for a run now.
    pub fn add(&mut self, key: Key) {
        if self.seen.insert(key.clone()) {
            self.queue.add(key, Duration::ZERO);
        }
    }

    /// Asks for a run later.
    pub fn add_after(&mut self, key: Key, delay: Duration) {
        self.queue.add(key, delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        let cases = [(0, 5), (1, 10), (4, 80), (17, 655_360), (18, 1_000_000), (40, 1_000_000)];
        for (failures, millis) in cases {
            assert_eq!(backoff(failures), Duration::from_millis(millis), "after {failures}");
        }
    }

    #[test]
    fn a_key_waits_once_and_never_runs_twice_at_a_time() {
        let mut queue = QueueCore::default();
        let key = Key::new("a", "b");
        assert!(queue.add(key.clone(), secs(0)));
        assert!(!queue.add(key.clone(), secs(1)));
        assert_eq!(queue.pop(secs(3)), Some((key.clone(), secs(3))));
        assert!(queue.add(key.clone(), secs(4)), "asked again while running");
        assert_eq!(queue.pop(secs(4)), None, "must not run twice at a time");
        assert_eq!(queue.done(&key, secs(5)), secs(2));
        assert_eq!(queue.pop(secs(6)), Some((key.clone(), secs(2))));
        queue.done(&key, secs(6));
        assert!(queue.is_idle());
    }

    #[test]
    fn the_earliest_delay_wins() {
        let mut queue = QueueCore::default();
        let key = Key::cluster("n");
        queue.add_at(key.clone(), secs(10));
        queue.add_at(key.clone(), secs(5));
        queue.add_at(key.clone(), secs(7));
        assert_eq!(queue.next_due(), Some(secs(5)));
        assert_eq!(queue.pop(secs(4)), None);
        assert!(queue.pop(secs(5)).is_some());
        queue.done(&key, secs(5));
        assert_eq!(queue.pop(secs(100)), None, "stale heap entries are dropped");
    }

    #[test]
    fn failures_are_counted_until_forgotten() {
        let mut queue = QueueCore::default();
        let key = Key::cluster("n");
        assert_eq!(queue.fail(&key, secs(0)), Duration::from_millis(5));
        assert!(queue.pop(secs(1)).is_some());
        assert_eq!(queue.fail(&key, secs(1)), Duration::from_millis(10));
        assert_eq!(queue.failures(&key), 2);
        queue.forget(&key);
        assert_eq!(queue.failures(&key), 0);
    }
}
