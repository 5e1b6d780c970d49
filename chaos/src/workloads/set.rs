//! A set of unique elements, one key each, read whole.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use etcd_client::{Client, Error, GetOptions};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, number, revision};
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Outcome, Process, Value};

const PREFIX: &str = "set/";
/// One read of the whole set for so many additions, while it is small.
const ADDS_PER_READ: u32 = 20;
/// One addition more between two reads for so many elements: reads grow with the set, and all of a long run would take
/// hundreds of megabytes.
const ELEMENTS_PER_ADD_MORE: i64 = 50;

#[derive(Default)]
pub struct Elements {
    next: AtomicI64,
}

#[async_trait]
impl Workload for Elements {
    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        let more = self.next.load(Ordering::Relaxed) / ELEMENTS_PER_ADD_MORE;
        match rng.random_ratio(1, ADDS_PER_READ.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))) {
            true => Action::ReadSet,
            false => Action::Add { value: self.next.fetch_add(1, Ordering::Relaxed) },
        }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        Ok(match action {
            Action::Add { value } => {
                let answer = client.put(format!("{PREFIX}{value:08}"), value.to_string(), None).await?;
                Outcome::Ok { value: Value::None, revision: revision(answer.header()) }
            }
            Action::ReadSet => {
                let answer = client.get(PREFIX, Some(GetOptions::new().with_prefix())).await?;
                let values = answer.kvs().iter().map(|kv| number(kv.value())).collect();
                Outcome::Ok { value: Value::Set(values), revision: revision(answer.header()) }
            }
            other => Outcome::Fail { error: format!("sets have no {other:?}") },
        })
    }

    fn last_reads(&self) -> Vec<Action> {
        vec![Action::ReadSet]
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("no acknowledged write lost", checkers::set::check(history))]
    }
}
