//! A set to which elements are only added: nothing acknowledged is lost, nothing appears that was never added, and
//! once seen an element stays.
//!
//! The rules are Jepsen's `set-full`, with strict real time: an element acknowledged before a read began must be in it.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::register::describe;
use crate::history::{Action, History, Nanos, Operation, Outcome, Value};

/// Judges all additions and reads of the set.
pub fn check(history: &History) -> Verdict {
    let mut additions: BTreeMap<i64, &Operation> = BTreeMap::new();
    let mut reads: Vec<(&Operation, BTreeSet<i64>)> = Vec::new();
    for operation in &history.operations {
        match (&operation.action, &operation.outcome) {
            (Action::Add { value }, _) => {
                additions.insert(*value, operation);
            }
            (Action::ReadSet, Outcome::Ok { value: Value::Set(values), .. }) => {
                reads.push((operation, values.iter().copied().collect()));
            }
            _ => {}
        }
    }
    for (read, seen) in &reads {
        for value in seen {
            match additions.get(value) {
                None => return convict(format!("{value} was read but never added"), &[read]),
                Some(addition) if addition.invoked > read.completed => {
                    return convict(format!("{value} was read before it was added"), &[read, addition]);
                }
                Some(addition) if matches!(addition.outcome, Outcome::Fail { .. }) => {
                    return convict(
                        format!("{value} was read though its addition failed"),
                        &[read, addition],
                    );
                }
                Some(_) => {}
            }
        }
    }
    missing(&additions, &mut reads)
}

/// An element must be in every read that began after it was acknowledged, or after another read had seen it.
fn missing(additions: &BTreeMap<i64, &Operation>, reads: &mut [(&Operation, BTreeSet<i64>)]) -> Verdict {
    let mut known_by: BTreeMap<i64, (Nanos, &Operation)> = additions
        .iter()
        .filter(|(_, addition)| addition.is_ok())
        .map(|(value, addition)| (*value, (addition.completed, *addition)))
        .collect();
    for (read, seen) in reads.iter() {
        for value in seen {
            let known = known_by.entry(*value).or_insert((read.completed, *read));
            if read.completed < known.0 {
                *known = (read.completed, *read);
            }
        }
    }
    for (read, seen) in reads.iter() {
        for (value, (since, witness)) in &known_by {
            if *since < read.invoked && !seen.contains(value) {
                return convict(
                    format!("{value} is missing though it was known before the read"),
                    &[witness, read],
                );
            }
        }
    }
    Verdict::Valid
}

fn convict(why: String, evidence: &[&Operation]) -> Verdict {
    Verdict::Invalid { why, evidence: evidence.iter().map(|operation| describe(operation)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Process;

    #[test]
    fn planted_violations_are_convicted() {
        let op = |invoked, completed, action, outcome| Operation {
            process: Process(0),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            action,
            outcome,
        };
        let ok = |value| Outcome::Ok { value, revision: None };
        let add = |from, to, value| op(from, to, Action::Add { value }, ok(Value::None));
        let maybe =
            |from, to, value| op(from, to, Action::Add { value }, Outcome::Unknown { error: String::new() });
        let failed =
            |from, to, value| op(from, to, Action::Add { value }, Outcome::Fail { error: String::new() });
        let read = |from, to, values: &[i64]| op(from, to, Action::ReadSet, ok(Value::Set(values.to_vec())));
        for (name, operations, valid) in [
            ("plain", vec![add(0, 1, 1), read(2, 3, &[1])], true),
            ("overlapping", vec![add(0, 9, 1), read(2, 3, &[])], true),
            ("lost", vec![add(0, 1, 1), read(2, 3, &[])], false),
            ("from nowhere", vec![read(2, 3, &[7])], false),
            ("from the future", vec![read(2, 3, &[7]), add(4, 5, 7)], false),
            ("failed but there", vec![failed(0, 1, 7), read(2, 3, &[7])], false),
            ("unknown, seen, then gone", vec![maybe(0, 1, 1), read(2, 3, &[1]), read(4, 5, &[])], false),
            ("unknown, unseen, then seen", vec![maybe(0, 1, 1), read(2, 3, &[]), read(4, 5, &[1])], true),
        ] {
            let verdict = check(&History { operations });
            assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict}");
        }
    }
}
