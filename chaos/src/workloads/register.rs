//! Registers with reads, writes and compare-and-set. Keys are short-lived, which keeps the linearizability search small.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, Txn, TxnOp};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, judge_registers, number, revision};
use crate::checkers::Verdict;
use crate::checkers::register::COMPARE_FAILED;
use crate::history::{Action, History, Outcome, Process, Value};

/// Operations on one key before the next one is used.
const OPERATIONS_PER_KEY: i64 = 60;
/// Keys in use at the same time.
const KEYS: i64 = 4;
/// Operations of unknown outcome before the next keys are used.
const LOST_PER_GENERATION: i64 = 4;
/// Few values, so that compare-and-set often succeeds.
const VALUES: i64 = 5;

pub struct Registers {
    count: AtomicI64,
    is_watched: bool,
}

impl Registers {
    /// Registers, with watchers beside them or not.
    pub fn new(is_watched: bool) -> Self {
        Registers { count: AtomicI64::new(0), is_watched }
    }
}

#[async_trait]
impl Workload for Registers {
    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        let generation = self.count.fetch_add(1, Ordering::Relaxed) / (OPERATIONS_PER_KEY * KEYS);
        let key = format!("r/{}", generation * KEYS + rng.random_range(0..KEYS));
        let value = |rng: &mut StdRng| rng.random_range(0..VALUES);
        match rng.random_range(0..3) {
            0 => Action::Read { key },
            1 => Action::Write { key, value: value(rng) },
            _ => Action::Cas { key, old: value(rng), new: value(rng) },
        }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        Ok(match action {
            Action::Read { key } => {
                let answer = client.get(key.as_str(), None).await?;
                let value =
                    answer.kvs().first().map_or(Value::None, |kv| Value::Register(number(kv.value())));
                Outcome::Ok { value, revision: revision(answer.header()) }
            }
            Action::Write { key, value } => {
                let answer = client.put(key.as_str(), value.to_string(), None).await?;
                Outcome::Ok { value: Value::None, revision: revision(answer.header()) }
            }
            Action::Cas { key, old, new } => {
                let txn = Txn::new()
                    .when([Compare::value(key.as_str(), CompareOp::Equal, old.to_string())])
                    .and_then([TxnOp::put(key.as_str(), new.to_string(), None)]);
                let answer = client.txn(txn).await?;
                match answer.succeeded() {
                    true => Outcome::Ok { value: Value::None, revision: revision(answer.header()) },
                    false => Outcome::Fail { error: COMPARE_FAILED.to_owned() },
                }
            }
            other => Outcome::Fail { error: format!("registers have no {other:?}") },
        })
    }

    fn watched(&self) -> Option<&'static str> {
        self.is_watched.then_some("r/")
    }

    fn lost_track(&self) {
        self.count.fetch_add(OPERATIONS_PER_KEY * KEYS / LOST_PER_GENERATION, Ordering::Relaxed);
    }

    fn last_reads(&self) -> Vec<Action> {
        let keys = (self.count.load(Ordering::Relaxed) / (OPERATIONS_PER_KEY * KEYS) + 1) * KEYS;
        (0..keys).map(|key| Action::Read { key: format!("r/{key}") }).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        judge_registers(history)
    }
}
