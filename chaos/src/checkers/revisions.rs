//! Revisions follow real time: what every answer's header says of the store's one sequence of writes.
//!
//! An answer never goes back behind one that was heard before it was asked for; a write is newer than all that; no two
//! writes share a revision; and, where nobody else writes, no more revisions pass than there were writes. This is the
//! order etcd's documentation promises ("revisions are globally ordered, one for each transaction that writes"), and
//! holds for any workload. Does not look at values.

use std::collections::HashMap;

use super::Verdict;
use super::register::describe;
use crate::history::{History, Operation, Outcome};

/// Judges all answers that carry a revision. `counts`: whether nobody but the history's operations wrote.
pub fn check(history: &History, counts: bool) -> Verdict {
    let mut answers: Vec<(&Operation, i64)> = history.operations.iter().filter_map(answer).collect();
    answers.sort_by_key(|(operation, _)| operation.invoked);
    order(&answers)
        .or_else(|| unique(&answers))
        .or_else(|| counted(history, &answers, counts))
        .unwrap_or(Verdict::Valid)
}

fn answer(operation: &Operation) -> Option<(&Operation, i64)> {
    match &operation.outcome {
        Outcome::Ok { revision: Some(revision), .. } => Some((operation, *revision)),
        _ => None,
    }
}

/// `answers` by invocation.
fn order(answers: &[(&Operation, i64)]) -> Option<Verdict> {
    let mut by_end = answers.to_vec();
    by_end.sort_by_key(|(operation, _)| operation.completed);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<(&Operation, i64)> = None;
    for &(operation, revision) in answers {
        while let Some(heard) = ended.next_if(|(heard, _)| heard.completed < operation.invoked) {
            if newest.is_none_or(|(_, known)| heard.1 > known) {
                newest = Some(heard);
            }
        }
        let Some((witness, known)) = newest else { continue };
        let why = match operation.action.writes() {
            _ if revision < known => format!("revision {revision} was answered after {known} had been"),
            true if revision == known => {
                format!("a write got revision {revision}, which was there before it")
            }
            _ => continue,
        };
        return Some(Verdict::Invalid { why, evidence: vec![describe(witness), describe(operation)] });
    }
    None
}

fn unique(answers: &[(&Operation, i64)]) -> Option<Verdict> {
    let mut writers: HashMap<i64, &Operation> = HashMap::new();
    for (operation, revision) in answers.iter().filter(|(operation, _)| operation.action.writes()) {
        if let Some(other) = writers.insert(*revision, operation) {
            let why = format!("two writes got revision {revision}");
            return Some(Verdict::Invalid { why, evidence: vec![describe(other), describe(operation)] });
        }
    }
    None
}

/// From the first answer to the newest write, one revision for each write at most.
fn counted(history: &History, answers: &[(&Operation, i64)], counts: bool) -> Option<Verdict> {
    let before = |(operation, revision): &(&Operation, i64)| revision - i64::from(operation.action.writes());
    let first = answers.iter().map(before).min().filter(|_| counts)?;
    let last = answers.iter().filter(|(operation, _)| operation.action.writes()).map(|(_, at)| *at).max()?;
    let may_have_written = history
        .operations
        .iter()
        .filter(|operation| operation.action.writes() && !matches!(operation.outcome, Outcome::Fail { .. }))
        .count() as i64;
    if last - first <= may_have_written {
        return None;
    }
    let why =
        format!("{} revisions passed, but only {may_have_written} writes may have happened", last - first);
    Some(Verdict::Invalid { why, evidence: surplus(answers) })
}

/// The first two writes, one after the other by revision, between which a revision passed that neither explains.
fn surplus(answers: &[(&Operation, i64)]) -> Vec<String> {
    let mut writes: Vec<_> = answers.iter().filter(|(operation, _)| operation.action.writes()).collect();
    writes.sort_by_key(|(_, revision)| *revision);
    let gap = writes.windows(2).find(|pair| pair[1].1 > pair[0].1 + 1);
    gap.into_iter().flatten().map(|(operation, _)| describe(operation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Nanos, Process, Value};

    #[test]
    fn planted_violations_are_convicted() {
        let op = |invoked, completed, writes: bool, revision: Option<i64>| Operation {
            process: Process(0),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            action: match writes {
                true => Action::Add { value: invoked as i64 },
                false => Action::ReadSet,
            },
            outcome: match revision {
                Some(_) => Outcome::Ok { value: Value::None, revision },
                None => Outcome::Unknown { error: String::new() },
            },
        };
        let write = |from, to, revision| op(from, to, true, Some(revision));
        let read = |from, to, revision| op(from, to, false, Some(revision));
        for (name, operations, valid) in [
            ("in order", vec![write(0, 1, 2), read(2, 3, 2), write(4, 5, 3)], true),
            ("overlapping", vec![write(0, 9, 3), write(1, 8, 2), read(2, 3, 1)], true),
            ("back in time", vec![write(0, 1, 2), write(2, 3, 3), read(4, 5, 2)], false),
            ("a write that is not new", vec![read(0, 1, 2), write(2, 3, 2)], false),
            ("twice the same", vec![write(0, 9, 2), write(0, 9, 2)], false),
            ("applied twice", vec![write(0, 1, 2), write(2, 3, 4)], false),
            ("unknown, applied", vec![write(0, 1, 2), op(1, 2, true, None), write(4, 5, 4)], true),
        ] {
            let verdict = check(&History { operations }, true);
            assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict}");
        }
        let twice = History { operations: vec![write(0, 1, 2), write(2, 3, 4)] };
        assert_eq!(check(&twice, false), Verdict::Valid, "others may write");
    }
}
