//! Runs one controller: takes keys, reconciles, carries plans out, and keeps the marks and failures of each key.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::controller::Controller;
use super::executor::{Api, execute};
use super::freshness::Freshness;
use super::key::Key;
use super::plan::{Context, Failure, Plan};
use super::queue::{Queue, RunEnd};
use super::stores::Stores;

/// How soon a key that waits for its own writes is looked at again when no event wakes it: a watch event normally
/// arrives within milliseconds and wakes the key itself.
const PARK: Duration = Duration::from_millis(20);
/// Rounds of questions within one run; a reconcile that still asks after that is broken.
const ROUNDS_MAX: usize = 16;

/// One running controller.
pub struct Loop {
    /// Its name in the table.
    pub name: &'static str,
    /// Its decisions.
    pub controller: Box<dyn Controller>,
    /// Its keys.
    pub queue: Arc<Queue>,
    /// Its client.
    pub api: Arc<dyn Api>,
    /// All caches.
    pub stores: Stores,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is kept of each key between runs.
    pub memory: Mutex<Memory>,
}

/// What is kept of keys between runs. Losing it costs nothing but a run.
#[derive(Default)]
pub struct Memory {
    freshness: Freshness,
    failures: FxHashMap<Key, Failure>,
}

impl Loop {
    /// Works until `stop`; the run under way is finished first.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let key = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                key = self.queue.pop() => key,
            };
            self.turn(&key).await;
        }
    }

    /// One turn of one key that was taken from the queue.
    pub async fn turn(&self, key: &Key) {
        if !self.memory.lock().freshness.is_fresh(key) {
            return self.queue.finish(key, RunEnd::Parked { recheck_after: PARK });
        }
        let end = match self.run(key).await {
            Ok(again_after) => {
                self.memory.lock().failures.remove(key);
                RunEnd::Done { again_after }
            }
            Err(failure) => {
                tracing::debug!(controller = self.name, %key, %failure, "run failed; it will be tried again");
                self.memory.lock().failures.insert(key.clone(), failure);
                RunEnd::Failed
            }
        };
        self.queue.finish(key, end);
    }

    async fn run(&self, key: &Key) -> Result<Option<Duration>, Failure> {
        let plan = self.decide(key).await?;
        let again_after = plan.again_after;
        let mut remember = |written: super::executor::Written| {
            self.memory.lock().freshness.remember(key, &written.store, written.mark);
        };
        execute(self.api.as_ref(), &self.stores, plan, &mut remember).await?;
        Ok(again_after)
    }

    async fn decide(&self, key: &Key) -> Result<Plan, Failure> {
        let failure = self.memory.lock().failures.get(key).cloned();
        let mut answers = FxHashMap::default();
        for _ in 0..ROUNDS_MAX {
            let (now, elapsed) = (self.clock.wall(), self.clock.monotonic());
            let context = Context { now, elapsed, failure: failure.as_ref(), answers: &answers };
            let plan = self.controller.reconcile(key, &context);
            let plan = plan.map_err(|error| Failure::local(error.to_string()))?;
            if plan.asks.is_empty() {
                return Ok(plan);
            }
            let asked = futures::future::join_all(plan.asks.iter().map(|ask| self.api.ask(ask))).await;
            answers.extend(plan.asks.into_iter().zip(asked));
        }
        Err(Failure::local(format!("{} asked for more than {ROUNDS_MAX} rounds for {key}", self.name)))
    }
}
