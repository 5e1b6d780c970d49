//! Registers with compare-and-set are linearizable, key by key.
//!
//! Linearizability is local (Herlihy and Wing, 1990): a history is linearizable if the sub-history of every object is,
//! so keys are searched one by one. Does not check anything between keys.

use std::collections::BTreeMap;

use super::Verdict;
use super::wgl::{Entry, Found, Model, search};
use crate::history::{Action, History, Nanos, Operation, Outcome, Value};

/// Visited states a key; a key of a hundred operations needs thousands.
const BUDGET_STATES: usize = 5_000_000;

/// A register that starts absent; absent reads as [`ABSENT`].
struct Register;

/// What a read of a key that was never written returns.
pub const ABSENT: i64 = i64::MIN;

#[derive(Clone, Copy)]
enum Op {
    Read(i64),
    Write(i64),
    Cas {
        old: i64,
        new: i64,
    },
    /// A compare-and-set that was told its comparison failed.
    CasFailed {
        old: i64,
    },
}

impl Model for Register {
    type Op = Op;
    type State = i64;

    fn initial() -> i64 {
        ABSENT
    }

    fn step(state: &i64, op: &Op) -> Option<i64> {
        match *op {
            Op::Read(value) => (value == *state).then_some(*state),
            Op::Write(value) => Some(value),
            Op::Cas { old, new } => (old == *state).then_some(new),
            Op::CasFailed { old } => (old != *state).then_some(*state),
        }
    }
}

/// The text with which a client records that a comparison failed, as opposed to an operation that never ran.
pub const COMPARE_FAILED: &str = "compare failed";

/// Judges all register operations of the history.
pub fn check(history: &History) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<(&Operation, Op)>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some((key, op)) = entry(operation) {
            keys.entry(key).or_default().push((operation, op));
        }
    }
    let mut too_hard = Vec::new();
    for (key, operations) in keys {
        match judge(&operations, Nanos(u64::MAX)) {
            Found::Linearizable => {}
            Found::TooHard => too_hard.push(key),
            Found::Violation => {
                return Verdict::Invalid {
                    why: format!("key {key:?} is not linearizable: no order explains these operations"),
                    evidence: smallest(operations).into_iter().map(describe).collect(),
                };
            }
        }
    }
    if too_hard.is_empty() {
        return Verdict::Valid;
    }
    Verdict::Unknown { why: format!("more than {BUDGET_STATES} states for {}", too_hard.join(", ")) }
}

/// Searches what was known of a key at an instant: what had not ended then may or may not have happened.
fn judge(operations: &[(&Operation, Op)], until: Nanos) -> Found {
    let known = operations.iter().filter(|(operation, _)| operation.invoked <= until);
    let entries: Vec<Entry<Op>> = known
        .filter_map(|&(operation, op)| {
            let returned = operation.ends().filter(|end| *end <= until).map(|end| end.0);
            // A read that has no answer yet says nothing.
            let is_silent = returned.is_none() && matches!(op, Op::Read(_) | Op::CasFailed { .. });
            (!is_silent).then_some(Entry { op, called: operation.invoked.0, returned })
        })
        .collect();
    search::<Register>(&entries, BUDGET_STATES)
}

/// The smallest sub-history that convicts: up to the first answer that nothing explains, without the reads that are not
/// needed for it. Leaving out writes would make violations of what is none.
fn smallest(mut operations: Vec<(&Operation, Op)>) -> Vec<&Operation> {
    let convicts =
        |operations: &[(&Operation, Op)], until| matches!(judge(operations, until), Found::Violation);
    let mut ends: Vec<Nanos> = operations.iter().filter_map(|(operation, _)| operation.ends()).collect();
    ends.sort_unstable();
    // Once convicted, a history stays so, whatever follows.
    let first = ends.partition_point(|end| !convicts(&operations, *end));
    let until = ends.get(first).copied().unwrap_or(Nanos(u64::MAX));
    operations.retain(|(operation, _)| operation.invoked <= until);
    for at in (0..operations.len()).rev() {
        if matches!(operations[at].1, Op::Read(_) | Op::CasFailed { .. }) {
            let taken = operations.remove(at);
            if !convicts(&operations, until) {
                operations.insert(at, taken);
            }
        }
    }
    operations.into_iter().map(|(operation, _)| operation).collect()
}

/// What the operation says of its key; nothing if it surely did not run, or is a read nobody heard the answer of.
fn entry(operation: &Operation) -> Option<(&str, Op)> {
    match (&operation.action, &operation.outcome) {
        (Action::Read { key }, Outcome::Ok { value: Value::Register(value), .. }) => {
            Some((key, Op::Read(*value)))
        }
        (Action::Read { key }, Outcome::Ok { value: Value::None, .. }) => Some((key, Op::Read(ABSENT))),
        (Action::Write { key, value }, Outcome::Ok { .. } | Outcome::Unknown { .. }) => {
            Some((key, Op::Write(*value)))
        }
        (Action::Cas { key, old, new }, Outcome::Ok { .. } | Outcome::Unknown { .. }) => {
            Some((key, Op::Cas { old: *old, new: *new }))
        }
        (Action::Cas { key, old, .. }, Outcome::Fail { error }) if error == COMPARE_FAILED => {
            Some((key, Op::CasFailed { old: *old }))
        }
        _ => None,
    }
}

/// One line of evidence.
pub fn describe(operation: &Operation) -> String {
    let end = operation.ends().map_or_else(|| "?".to_owned(), |end| format!("{:.3} ms", end.0 as f64 / 1e6));
    format!(
        "process {} from {:.3} ms to {end}: {:?} -> {:?}",
        operation.process.0,
        operation.invoked.0 as f64 / 1e6,
        operation.action,
        operation.outcome
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Process;

    fn op(process: u32, invoked: u64, completed: u64, action: Action, outcome: Outcome) -> Operation {
        Operation {
            process: Process(process),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            action,
            outcome,
        }
    }

    fn ok(value: Value) -> Outcome {
        Outcome::Ok { value, revision: None }
    }

    fn key() -> String {
        "k".to_owned()
    }

    #[test]
    fn planted_violations_are_convicted() {
        let write = |process, from, to, value| {
            op(process, from, to, Action::Write { key: key(), value }, ok(Value::None))
        };
        let read = |process, from, to, value| {
            op(process, from, to, Action::Read { key: key() }, ok(Value::Register(value)))
        };
        let cas = |process, from, to, old, new, outcome| {
            op(process, from, to, Action::Cas { key: key(), old, new }, outcome)
        };
        let failed = || Outcome::Fail { error: COMPARE_FAILED.to_owned() };
        let unknown = || Outcome::Unknown { error: "timed out".to_owned() };
        let cases: Vec<(&str, Vec<Operation>, bool)> = vec![
            ("plain", vec![write(0, 0, 1, 1), read(1, 2, 3, 1)], true),
            ("stale read", vec![write(0, 0, 1, 1), write(0, 2, 3, 2), read(1, 4, 5, 1)], false),
            ("lost write", vec![write(0, 0, 1, 1), read(1, 2, 3, ABSENT)], false),
            (
                "cas twice",
                vec![
                    write(0, 0, 1, 1),
                    cas(0, 2, 3, 1, 2, ok(Value::None)),
                    cas(1, 4, 5, 1, 3, ok(Value::None)),
                ],
                false,
            ),
            ("cas wrongly refused", vec![write(0, 0, 1, 1), cas(1, 2, 3, 1, 2, failed())], false),
            (
                "unknown cas seen",
                vec![write(0, 0, 1, 1), cas(1, 2, 3, 1, 2, unknown()), read(0, 4, 5, 2)],
                true,
            ),
            (
                "unknown cas unseen",
                vec![write(0, 0, 1, 1), cas(1, 2, 3, 1, 2, unknown()), read(0, 4, 5, 1)],
                true,
            ),
        ];
        for (name, operations, valid) in cases {
            let verdict = check(&History { operations });
            assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict}");
        }
    }

    #[test]
    fn only_what_is_needed_to_convict_is_shown() {
        let write = |from, to, value| op(0, from, to, Action::Write { key: key(), value }, ok(Value::None));
        let read = |from, to, value| op(1, from, to, Action::Read { key: key() }, ok(Value::Register(value)));
        let history = vec![
            write(0, 1, 1),
            read(2, 3, 1),
            write(4, 5, 2),
            read(6, 7, 2),
            read(8, 9, 1),
            write(10, 11, 3),
            read(12, 13, 3),
        ];
        let Verdict::Invalid { evidence, .. } = check(&History { operations: history.clone() }) else {
            panic!("a stale read passed")
        };
        let needed: Vec<String> = [0, 2, 4].into_iter().map(|at: usize| describe(&history[at])).collect();
        assert_eq!(evidence, needed);
    }
}
