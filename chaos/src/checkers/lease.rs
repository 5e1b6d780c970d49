//! Leases and locks: a lease never ends early, never comes back, and does not outlive its owner; a lock has one holder.
//!
//! From etcd's documented promises: a lease lives at least its time to live after every renewal that was answered,
//! and its keys go when it ends. When it ends late is bounded only once nothing changes leaders any more, so that rule
//! looks at the locks read last. Does not check that a lease ends at the earliest moment it may.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use super::register::describe;
use crate::history::{Action, History, Nanos, Operation, Outcome, Value};

/// Clocks may run faster than ours by so much of every second; a lease may end early by as much.
const CLOCK_TOLERANCE: f64 = 0.3;
/// A lease that nobody renews must have ended so long after its time to live, once the cluster is at rest.
pub const LATE_BOUND_SECS: f64 = 3.0;

/// One lease as its owner saw it.
#[derive(Default)]
struct Life<'a> {
    ttl_secs: f64,
    /// Grants and renewals that were answered, by their end.
    renewals: Vec<&'a Operation>,
    /// The end of the last attempt to renew, answered or not.
    last_attempt: Nanos,
    revoked: Vec<&'a Operation>,
    /// Answers that there is no such lease.
    missing: Vec<&'a Operation>,
}

impl<'a> Life<'a> {
    /// The renewal that keeps it alive for certain at `moment`, unless it was revoked; only renewals answered before
    /// `asked` count.
    fn kept_by(&self, asked: Nanos, moment: Nanos) -> Option<&'a Operation> {
        let sure = (self.ttl_secs * (1.0 - CLOCK_TOLERANCE) * 1e9) as u64;
        let revoked = self.revoked.iter().any(|revoke| revoke.invoked < moment);
        let keeps = |renewal: &&&Operation| renewal.completed < asked && renewal.invoked.0 + sure > moment.0;
        self.renewals.iter().rev().find(keeps).filter(|_| !revoked).copied()
    }
}

/// Judges all leases and locks of the history.
pub fn check(history: &History) -> Verdict {
    let lives = lives(history);
    lives
        .values()
        .find_map(ended_early)
        .or_else(|| lives.values().find_map(came_back))
        .or_else(|| two_holders(history, &lives))
        .or_else(|| outlived(history, &lives))
        .unwrap_or(Verdict::Valid)
}

fn convict(why: String, evidence: &[&Operation]) -> Verdict {
    Verdict::Invalid { why, evidence: evidence.iter().map(|operation| describe(operation)).collect() }
}

fn lives(history: &History) -> BTreeMap<i64, Life<'_>> {
    let mut lives: BTreeMap<i64, Life<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let ok = match &operation.outcome {
            Outcome::Ok { value, .. } => Some(value),
            Outcome::Fail { .. } if !matches!(operation.action, Action::KeepAlive { .. }) => continue,
            _ => None,
        };
        match operation.action {
            Action::Grant { lease, ttl_secs } => {
                let life = lives.entry(lease).or_default();
                life.ttl_secs = ttl_secs as f64;
                life.last_attempt = life.last_attempt.max(operation.completed);
                life.renewals.extend(ok.map(|_| operation));
            }
            Action::KeepAlive { lease } => {
                let life = lives.entry(lease).or_default();
                life.last_attempt = life.last_attempt.max(operation.completed);
                match ok {
                    Some(Value::Alive(true)) => life.renewals.push(operation),
                    Some(Value::Alive(false)) => life.missing.push(operation),
                    _ => {}
                }
            }
            Action::Revoke { lease } => lives.entry(lease).or_default().revoked.push(operation),
            _ => {}
        }
    }
    lives
}

fn ended_early(life: &Life<'_>) -> Option<Verdict> {
    life.missing.iter().find_map(|missing| {
        let renewal = life.kept_by(missing.invoked, missing.completed)?;
        let why = format!("a lease of {} s was gone too early", life.ttl_secs);
        Some(convict(why, &[renewal, missing]))
    })
}

fn came_back(life: &Life<'_>) -> Option<Verdict> {
    let ended = life.missing.iter().chain(life.revoked.iter().filter(|revoke| revoke.is_ok()));
    let ended: Vec<_> = ended.collect();
    life.renewals.iter().find_map(|renewal| {
        let end = ended.iter().find(|end| end.completed < renewal.invoked)?;
        Some(convict("a lease that had ended was renewed".into(), &[end, renewal]))
    })
}

/// Whoever takes a lock proves that the holder before had let it go, or that its lease had ended.
fn two_holders(history: &History, lives: &BTreeMap<i64, Life<'_>>) -> Option<Verdict> {
    let mut taken: HashMap<&str, Vec<(i64, i64, &Operation)>> = HashMap::new();
    let mut released: HashMap<(&str, i64), Vec<&Operation>> = HashMap::new();
    for operation in &history.operations {
        match (&operation.action, &operation.outcome) {
            (Action::Acquire { lock, lease }, Outcome::Ok { revision: Some(revision), .. }) => {
                taken.entry(lock).or_default().push((*revision, *lease, operation));
            }
            (Action::Release { lock, lease }, Outcome::Ok { .. } | Outcome::Unknown { .. }) => {
                released.entry((lock, *lease)).or_default().push(operation);
            }
            _ => {}
        }
    }
    for (lock, mut holders) in taken {
        holders.sort_by_key(|(revision, ..)| *revision);
        for pair in holders.windows(2) {
            let ((_, holder, took), (_, _, next)) = (pair[0], pair[1]);
            let releases = released.get(&(lock, holder)).map_or(&[][..], Vec::as_slice);
            let let_go = releases
                .iter()
                .any(|release| release.invoked < next.completed && release.completed > took.invoked);
            let Some(life) = lives.get(&holder).filter(|_| !let_go) else { continue };
            if let Some(renewal) = life.kept_by(next.invoked, next.completed) {
                let why = format!("the lock {lock:?} was taken while the lease of its holder lived");
                return Some(convict(why, &[took, renewal, next]));
            }
        }
    }
    None
}

fn outlived(history: &History, lives: &BTreeMap<i64, Life<'_>>) -> Option<Verdict> {
    history.operations.iter().find_map(|operation| {
        let Outcome::Ok { value: Value::Holder(Some(holder)), .. } = &operation.outcome else { return None };
        let life = lives.get(holder)?;
        let late = ((life.ttl_secs + LATE_BOUND_SECS) * 1e9) as u64;
        if operation.invoked.0 <= life.last_attempt.0 + late {
            return None;
        }
        let why = format!("a lease of {} s holds a lock long after its owner went", life.ttl_secs);
        let last = life.renewals.last().copied();
        Some(convict(why, &last.into_iter().chain([operation]).collect::<Vec<_>>()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Process;

    const SECOND: u64 = 1_000_000_000;

    fn op(from: u64, to: u64, action: Action, outcome: Outcome) -> Operation {
        Operation {
            process: Process(0),
            invoked: Nanos(from * SECOND),
            completed: Nanos(to * SECOND),
            action,
            outcome,
        }
    }

    fn ok(value: Value) -> Outcome {
        Outcome::Ok { value, revision: None }
    }

    fn grant(from: u64, to: u64, lease: i64) -> Operation {
        op(from, to, Action::Grant { lease, ttl_secs: 10 }, ok(Value::Alive(true)))
    }

    fn keep(from: u64, to: u64, lease: i64, alive: bool) -> Operation {
        op(from, to, Action::KeepAlive { lease }, ok(Value::Alive(alive)))
    }

    fn acquire(from: u64, to: u64, lease: i64, revision: i64) -> Operation {
        let outcome = Outcome::Ok { value: Value::None, revision: Some(revision) };
        op(from, to, Action::Acquire { lock: "l".into(), lease }, outcome)
    }

    fn release(from: u64, to: u64, lease: i64, outcome: Outcome) -> Operation {
        op(from, to, Action::Release { lock: "l".into(), lease }, outcome)
    }

    fn revoke(from: u64, to: u64, lease: i64) -> Operation {
        op(from, to, Action::Revoke { lease }, ok(Value::None))
    }

    fn read(at: u64, holder: Option<i64>) -> Operation {
        op(at, at, Action::ReadLock { lock: "l".into() }, ok(Value::Holder(holder)))
    }

    #[test]
    fn planted_violations_are_convicted() {
        let unknown = || Outcome::Unknown { error: String::new() };
        for (name, operations, convicted_by) in [
            ("kept", vec![grant(0, 1, 1), keep(5, 6, 1, true), keep(13, 14, 1, true)], None),
            ("run out", vec![grant(0, 1, 1), keep(12, 13, 1, false)], None),
            ("revoked", vec![grant(0, 1, 1), revoke(2, 3, 1), keep(4, 5, 1, false)], None),
            ("gone early", vec![grant(0, 1, 1), keep(4, 5, 1, false)], Some("too early")),
            (
                "revived",
                vec![grant(0, 1, 1), keep(20, 21, 1, false), keep(22, 23, 1, true)],
                Some("had ended was renewed"),
            ),
            (
                "two holders",
                vec![grant(0, 1, 1), grant(0, 1, 2), acquire(2, 3, 1, 5), acquire(4, 5, 2, 6)],
                Some("lease of its holder lived"),
            ),
            (
                "released",
                vec![
                    grant(0, 1, 1),
                    grant(0, 1, 2),
                    acquire(2, 3, 1, 5),
                    release(3, 4, 1, unknown()),
                    acquire(4, 5, 2, 7),
                ],
                None,
            ),
            ("taken over", vec![grant(0, 1, 1), acquire(2, 3, 1, 5), acquire(12, 13, 2, 7)], None),
            ("still there", vec![grant(0, 1, 1), acquire(2, 3, 1, 5), read(12, Some(1))], None),
            ("forgotten", vec![grant(0, 1, 1), acquire(2, 3, 1, 5), read(20, Some(1))], Some("long after")),
            ("free", vec![grant(0, 1, 1), acquire(2, 3, 1, 5), read(20, None)], None),
        ] {
            match (convicted_by, check(&History { operations })) {
                (None, Verdict::Valid) => {}
                (Some(part), Verdict::Invalid { why, .. }) => assert!(why.contains(part), "{name}: {why}"),
                (_, verdict) => panic!("{name}: {verdict}"),
            }
        }
    }
}
