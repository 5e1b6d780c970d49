//! Locks held by leases: taken, renewed, released, revoked, and abandoned, by owners that come and go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Workload, number, revision};
use crate::checkers::lease::LATE_BOUND_SECS;
use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Operation, Outcome, Process, Value};

const LOCKS: u32 = 4;
const TTL_SECS: std::ops::RangeInclusive<i64> = 2..=4;
/// A machine that does other things besides ends leases later.
const BUSY_MACHINE_SECS: f64 = 5.0;
/// Above what a server would choose by itself.
const FIRST_LEASE: i64 = 1_000;

/// What an owner has.
#[derive(Clone, Debug)]
struct Session {
    lease: i64,
    lock: Option<String>,
}

pub struct Locks {
    next: AtomicI64,
    sessions: Mutex<HashMap<Process, Session>>,
}

impl Default for Locks {
    fn default() -> Self {
        Locks { next: AtomicI64::new(FIRST_LEASE), sessions: Mutex::default() }
    }
}

fn lock_name(number: u32) -> String {
    format!("lock/{number}")
}

#[async_trait]
impl Workload for Locks {
    fn next(&self, process: Process, rng: &mut StdRng) -> Action {
        let session = self.sessions.lock().get(&process).cloned();
        let draw = rng.random_range(0..100);
        match session {
            Some(Session { lease, lock: Some(lock) }) => match draw {
                0..60 => Action::KeepAlive { lease },
                60..75 => Action::Release { lock, lease },
                75..85 => Action::Revoke { lease },
                _ => self.grant(rng),
            },
            Some(Session { lease, lock: None }) => match draw {
                0..70 => Action::Acquire { lock: lock_name(rng.random_range(0..LOCKS)), lease },
                _ => Action::KeepAlive { lease },
            },
            None => self.grant(rng),
        }
    }

    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error> {
        let ok = |value| Ok(Outcome::Ok { value, revision: None });
        match action {
            Action::Grant { lease, ttl_secs } => {
                client.lease_grant(*ttl_secs, Some(LeaseGrantOptions::new().with_id(*lease))).await?;
                ok(Value::Alive(true))
            }
            Action::KeepAlive { lease } => match client.lease_keep_alive(*lease).await {
                Ok(_) => ok(Value::Alive(true)),
                // The client's words for an answered time of zero.
                Err(Error::LeaseKeepAliveError(_)) => ok(Value::Alive(false)),
                Err(error) => Err(error),
            },
            Action::Revoke { lease } => {
                client.lease_revoke(*lease).await?;
                ok(Value::None)
            }
            Action::Acquire { lock, lease } => {
                let free = Compare::create_revision(lock.as_str(), CompareOp::Equal, 0);
                let put =
                    TxnOp::put(lock.as_str(), lease.to_string(), Some(PutOptions::new().with_lease(*lease)));
                conditional(client, free, put, "it is held").await
            }
            Action::Release { lock, lease } => {
                let mine = Compare::value(lock.as_str(), CompareOp::Equal, lease.to_string());
                conditional(client, mine, TxnOp::delete(lock.as_str(), None), "it is not mine").await
            }
            Action::ReadLock { lock } => {
                let answer = client.get(lock.as_str(), None).await?;
                let holder = answer.kvs().first().map(|kv| number(kv.value()));
                Ok(Outcome::Ok { value: Value::Holder(holder), revision: revision(answer.header()) })
            }
            other => Ok(Outcome::Fail { error: format!("locks have no {other:?}") }),
        }
    }

    fn completed(&self, operation: &Operation) {
        let mut sessions = self.sessions.lock();
        let process = operation.process;
        let ok = match &operation.outcome {
            Outcome::Ok { value, .. } => Some(value),
            // Nobody knows, or it was refused: a lock that is not taken stays so; all else is left behind.
            Outcome::Fail { .. } if matches!(operation.action, Action::Acquire { .. }) => return,
            Outcome::Unknown { .. } if matches!(operation.action, Action::KeepAlive { .. }) => return,
            _ => None,
        };
        match (&operation.action, ok) {
            (Action::Grant { lease, .. }, Some(_)) => {
                sessions.insert(process, Session { lease: *lease, lock: None });
            }
            (Action::Acquire { lock, lease }, Some(_)) => {
                sessions.insert(process, Session { lease: *lease, lock: Some(lock.clone()) });
            }
            (Action::Release { lease, .. }, Some(_)) => {
                sessions.insert(process, Session { lease: *lease, lock: None });
            }
            (Action::KeepAlive { .. }, Some(Value::Alive(true))) | (Action::ReadLock { .. }, _) => {}
            _ => {
                sessions.remove(&process);
            }
        }
    }

    fn settle(&self) -> Duration {
        Duration::from_secs_f64(*TTL_SECS.end() as f64 + LATE_BOUND_SECS + BUSY_MACHINE_SECS)
    }

    fn last_reads(&self) -> Vec<Action> {
        (0..LOCKS).map(|lock| Action::ReadLock { lock: lock_name(lock) }).collect()
    }

    fn writes_alone(&self) -> bool {
        // Leases that end delete keys.
        false
    }

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)> {
        vec![("leases and locks", checkers::lease::check(history))]
    }
}

impl Locks {
    fn grant(&self, rng: &mut StdRng) -> Action {
        Action::Grant {
            lease: self.next.fetch_add(1, Ordering::Relaxed),
            ttl_secs: rng.random_range(TTL_SECS),
        }
    }
}

async fn conditional(
    client: &mut Client,
    when: Compare,
    then: TxnOp,
    otherwise: &str,
) -> Result<Outcome, Error> {
    let answer = client.txn(Txn::new().when([when]).and_then([then])).await?;
    Ok(match answer.succeeded() {
        true => Outcome::Ok { value: Value::None, revision: revision(answer.header()) },
        false => Outcome::Fail { error: otherwise.to_owned() },
    })
}
