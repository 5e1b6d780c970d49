//! Transactions of reads and appends over a few lists, optimistic: read all, then write if nothing changed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, Txn, TxnOp, TxnOpResponse};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, revision};
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Micro, Outcome, Process, Value};

/// Lists in use at the same time.
const LISTS: i64 = 3;
/// Appends to a generation of lists before new ones are used: lists are read whole.
const APPENDS_PER_GENERATION: i64 = 150;
/// Lists that one of the last reads has: a long run leaves hundreds, and each takes a round of the cluster at every member.
/// Few enough that a conviction still shows which lists it is about.
const LISTS_PER_LAST_READ: usize = 15;

#[derive(Default)]
pub struct Lists {
    next: AtomicI64,
}

#[async_trait]
impl Workload for Lists {
    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        let generation = self.next.load(Ordering::Relaxed) / APPENDS_PER_GENERATION;
        let micros = (0..rng.random_range(1..=3))
            .map(|_| {
                let key = format!("list/{}", generation * LISTS + rng.random_range(0..LISTS));
                match rng.random() {
                    true => Micro::Append { key, value: self.next.fetch_add(1, Ordering::Relaxed) },
                    false => Micro::Read { key, values: None },
                }
            })
            .collect();
        Action::Txn { micros }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        let Action::Txn { micros } = action else {
            return Ok(Outcome::Fail { error: format!("lists have no {action:?}") });
        };
        let mut lists = read(client, micros).await?;
        let guards: Vec<Compare> = lists
            .iter()
            .map(|(key, list)| Compare::mod_revision(key.as_str(), CompareOp::Equal, list.revision))
            .collect();
        let done = perform(micros, &mut lists);
        let writes: Vec<TxnOp> = lists
            .iter()
            .filter(|(_, list)| list.changed)
            .map(|(key, list)| TxnOp::put(key.as_str(), format!("{:?}", list.values), None))
            .collect();
        let answer = client.txn(Txn::new().when(guards).and_then(writes)).await?;
        Ok(match answer.succeeded() {
            true => Outcome::Ok { value: Value::Micros(done), revision: revision(answer.header()) },
            false => Outcome::Fail { error: "a list changed meanwhile".to_owned() },
        })
    }

    fn last_reads(&self) -> Vec<Action> {
        let lists = (self.next.load(Ordering::Relaxed) / APPENDS_PER_GENERATION + 1) * LISTS;
        let read = |list: &i64| Micro::Read { key: format!("list/{list}"), values: None };
        let lists: Vec<i64> = (0..lists).collect();
        let some = |lists: &[i64]| Action::Txn { micros: lists.iter().map(read).collect() };
        lists.chunks(LISTS_PER_LAST_READ).map(some).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("strictly serializable", checkers::append::check(history))]
    }
}

struct List {
    values: Vec<i64>,
    /// Zero: absent.
    revision: i64,
    changed: bool,
}

async fn read(client: &mut Client, micros: &[Micro]) -> Result<BTreeMap<String, List>, Error> {
    let mut keys: Vec<&String> = micros
        .iter()
        .filter_map(|micro| match micro {
            Micro::Append { key, .. } | Micro::Read { key, .. } => Some(key),
            Micro::Put { .. } | Micro::Get { .. } => None,
        })
        .collect();
    keys.sort();
    keys.dedup();
    let gets: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
    let answer = client.txn(Txn::new().and_then(gets)).await?;
    let lists = keys.into_iter().zip(answer.op_responses()).map(|(key, response)| {
        let found = match &response {
            TxnOpResponse::Get(get) => get.kvs().first(),
            _ => None,
        };
        let values = found.and_then(|kv| serde_json::from_slice(kv.value()).ok()).unwrap_or_default();
        let revision = found.map_or(0, etcd_client::KeyValue::mod_revision);
        (key.clone(), List { values, revision, changed: false })
    });
    Ok(lists.collect())
}

/// The transaction as the store would run it, on what was read.
fn perform(micros: &[Micro], lists: &mut BTreeMap<String, List>) -> Vec<Micro> {
    let mut done = Vec::new();
    for micro in micros {
        match micro {
            Micro::Append { key, value } => {
                if let Some(list) = lists.get_mut(key) {
                    list.values.push(*value);
                    list.changed = true;
                }
                done.push(micro.clone());
            }
            Micro::Read { key, .. } => {
                let values = lists.get(key).map(|list| list.values.clone());
                done.push(Micro::Read { key: key.clone(), values });
            }
            Micro::Put { .. } | Micro::Get { .. } => {}
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reads_have_every_list_once() {
        let lists = Lists::default();
        lists.next.store(40 * APPENDS_PER_GENERATION + 1, Ordering::Relaxed);
        let mut read = Vec::new();
        for action in lists.last_reads() {
            let Action::Txn { micros } = action else { panic!("{action:?}") };
            assert!(micros.len() <= LISTS_PER_LAST_READ);
            read.extend(micros.into_iter().map(|micro| match micro {
                Micro::Read { key, values: None } => key,
                other => panic!("{other:?}"),
            }));
        }
        let all: Vec<String> = (0..41 * LISTS).map(|list| format!("list/{list}")).collect();
        assert_eq!(read, all);
    }
}
