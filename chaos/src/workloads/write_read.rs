//! Transactions of reads and writes over a few registers, each run by the server in one piece.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use etcd_client::{Client, Error, Txn, TxnOp, TxnOpResponse};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, number, revision};
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Micro, Outcome, Process, Value, Version};

const REGISTERS: u32 = 6;
const MICROS_MAX: u32 = 4;

#[derive(Default)]
pub struct Transactions {
    next: AtomicI64,
}

#[async_trait]
impl Workload for Transactions {
    fn next(&self, _: Process, rng: &mut StdRng) -> Action {
        let mut micros: Vec<Micro> = Vec::new();
        for _ in 0..rng.random_range(1..=MICROS_MAX) {
            let key = format!("wr/{}", rng.random_range(0..REGISTERS));
            // etcd takes one write of a key in a transaction.
            let written =
                micros.iter().any(|micro| matches!(micro, Micro::Put { key: other, .. } if *other == key));
            micros.push(match rng.random() && !written {
                true => Micro::Put { key, value: self.next.fetch_add(1, Ordering::Relaxed) },
                false => Micro::Get { key, found: None },
            });
        }
        Action::Txn { micros }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        let Action::Txn { micros } = action else {
            return Ok(Outcome::Fail { error: format!("registers have no {action:?}") });
        };
        let ops: Vec<TxnOp> = micros
            .iter()
            .filter_map(|micro| match micro {
                Micro::Put { key, value } => Some(TxnOp::put(key.as_str(), value.to_string(), None)),
                Micro::Get { key, .. } => Some(TxnOp::get(key.as_str(), None)),
                Micro::Append { .. } | Micro::Read { .. } => None,
            })
            .collect();
        let answer = client.txn(Txn::new().and_then(ops)).await?;
        let done =
            micros.iter().zip(answer.op_responses()).map(|(micro, response)| match (micro, response) {
                (Micro::Get { key, .. }, TxnOpResponse::Get(get)) => {
                    let kv = get.kvs().first();
                    let found = Version {
                        value: kv.map(|kv| number(kv.value())),
                        mod_revision: kv.map_or(0, etcd_client::KeyValue::mod_revision),
                    };
                    Micro::Get { key: key.clone(), found: Some(found) }
                }
                _ => micro.clone(),
            });
        Ok(Outcome::Ok { value: Value::Micros(done.collect()), revision: revision(answer.header()) })
    }

    fn last_reads(&self) -> Vec<Action> {
        let read = |register| Micro::Get { key: format!("wr/{register}"), found: None };
        (0..REGISTERS).map(|register| Action::Txn { micros: vec![read(register)] }).collect()
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("strictly serializable", checkers::write_read::check(history))]
    }
}
