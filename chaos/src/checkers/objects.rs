//! Kubernetes' use of a store: an object is replaced only by who read its newest version, and a list shows one moment.
//!
//! The rules are those the API server relies on: updates conditioned on mod_revision are atomic (no lost update), and a
//! list pinned to a revision, page by page, holds exactly the versions that were newest then, though history is being
//! compacted. Where the fate of some operation on an object is unknown, versions that it may explain are allowed.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Verdict;
use super::register::describe;
use crate::history::{Action, History, Object, Operation, Outcome, Value};

/// A change of an object that certainly happened.
struct Change<'a> {
    operation: &'a Operation,
    /// The version it replaced; zero for none.
    replaced: i64,
    /// None: deleted.
    value: Option<i64>,
}

#[derive(Default)]
struct Life<'a> {
    /// By revision.
    changes: BTreeMap<i64, Change<'a>>,
    /// Some change may have happened or not.
    is_uncertain: bool,
}

type Lives<'a> = HashMap<&'a str, Life<'a>>;

/// Judges all changes and lists of the history.
pub fn check(history: &History) -> Verdict {
    let lives = lives(history);
    lives
        .iter()
        .find_map(|(key, life)| lost_update(key, life))
        .or_else(|| history.operations.iter().find_map(|operation| torn_list(operation, &lives)))
        .unwrap_or(Verdict::Valid)
}

fn lives(history: &History) -> Lives<'_> {
    let mut lives = Lives::new();
    for operation in &history.operations {
        let (key, value) = match &operation.action {
            Action::Create { key, value } | Action::Update { key, value } => (key, Some(*value)),
            Action::Delete { key } => (key, None),
            _ => continue,
        };
        let life = lives.entry(key).or_default();
        match &operation.outcome {
            Outcome::Ok { value: Value::Replaced(replaced), revision: Some(revision) } => {
                life.changes.insert(*revision, Change { operation, replaced: *replaced, value });
            }
            Outcome::Unknown { .. } => life.is_uncertain = true,
            _ => {}
        }
    }
    lives
}

/// What a change replaced is what the change before it left.
fn lost_update(key: &str, life: &Life<'_>) -> Option<Verdict> {
    let changes: Vec<(&i64, &Change<'_>)> = life.changes.iter().collect();
    changes.windows(2).find_map(|pair| {
        let ((&revision, before), (_, after)) = (pair[0], pair[1]);
        let left = if before.value.is_some() { revision } else { 0 };
        let explained =
            after.replaced == left || life.is_uncertain && (after.replaced > left || after.replaced == 0);
        if explained {
            return None;
        }
        let why =
            format!("{key:?} was changed as if it were at revision {}, but it was at {left}", after.replaced);
        Some(Verdict::Invalid { why, evidence: vec![describe(before.operation), describe(after.operation)] })
    })
}

fn torn_list(operation: &Operation, lives: &Lives<'_>) -> Option<Verdict> {
    let Outcome::Ok { value: Value::Objects(objects), revision: Some(at) } = &operation.outcome else {
        return None;
    };
    let convict = |why: String, witness: Option<&Operation>| {
        let evidence =
            witness.into_iter().map(describe).chain([format!("the list at revision {at}")]).collect();
        Some(Verdict::Invalid { why, evidence })
    };
    let mut listed: HashSet<&str> = HashSet::new();
    for object in objects {
        if !listed.insert(&object.key) {
            return convict(format!("{:?} was listed twice", object.key), None);
        }
        if let Some((why, witness)) = wrong_version(object, *at, lives) {
            return convict(why, witness);
        }
    }
    for (key, life) in lives.iter().filter(|(key, life)| !listed.contains(*key) && !life.is_uncertain) {
        if let Some((revision, change)) = life.changes.range(..=*at).next_back()
            && change.value.is_some()
        {
            let why = format!("{key:?} of revision {revision} is missing from a list");
            return convict(why, Some(change.operation));
        }
    }
    None
}

fn wrong_version<'a>(object: &Object, at: i64, lives: &Lives<'a>) -> Option<(String, Option<&'a Operation>)> {
    let Object { key, value, mod_revision } = object;
    if *mod_revision > at {
        return Some((format!("{key:?} of revision {mod_revision} was listed at {at}"), None));
    }
    let life = lives.get(key.as_str())?;
    let (revision, newest) = life.changes.range(..=at).next_back()?;
    let same = revision == mod_revision && newest.value == Some(*value);
    let later_and_unknown = life.is_uncertain && mod_revision > revision;
    if same || later_and_unknown {
        return None;
    }
    let why = format!("{key:?} was listed at revision {mod_revision}, though changed at {revision}");
    Some((why, Some(newest.operation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Nanos, Process};

    fn op(action: Action, outcome: Outcome) -> Operation {
        Operation { process: Process(0), invoked: Nanos(0), completed: Nanos(1), action, outcome }
    }

    fn changed(replaced: i64, revision: i64) -> Outcome {
        Outcome::Ok { value: Value::Replaced(replaced), revision: Some(revision) }
    }

    fn create(value: i64, replaced: i64, revision: i64) -> Operation {
        op(Action::Create { key: "a".into(), value }, changed(replaced, revision))
    }

    fn update(value: i64, replaced: i64, revision: i64) -> Operation {
        op(Action::Update { key: "a".into(), value }, changed(replaced, revision))
    }

    fn delete(replaced: i64, revision: i64) -> Operation {
        op(Action::Delete { key: "a".into() }, changed(replaced, revision))
    }

    fn maybe(value: i64) -> Operation {
        op(Action::Update { key: "a".into(), value }, Outcome::Unknown { error: String::new() })
    }

    fn list(at: i64, objects: &[(i64, i64)]) -> Operation {
        let object = |&(value, mod_revision): &(i64, i64)| Object { key: "a".into(), value, mod_revision };
        let value = Value::Objects(objects.iter().map(object).collect());
        op(Action::List, Outcome::Ok { value, revision: Some(at) })
    }

    #[test]
    fn planted_violations_are_convicted() {
        for (name, operations, valid) in [
            ("a life", vec![create(1, 0, 2), update(2, 2, 3), delete(3, 4), create(3, 0, 5)], true),
            ("lost update", vec![create(1, 0, 2), update(2, 2, 3), update(3, 2, 4)], false),
            ("made twice", vec![create(1, 0, 2), create(2, 0, 3)], false),
            ("changed after its end", vec![create(1, 0, 2), delete(2, 3), update(3, 2, 4)], false),
            ("an unknown change between", vec![create(1, 0, 2), maybe(2), update(3, 3, 4)], true),
            ("listed", vec![create(1, 0, 2), update(2, 2, 4), list(3, &[(1, 2)]), list(5, &[(2, 4)])], true),
            ("missing", vec![create(1, 0, 2), list(3, &[])], false),
            ("stale", vec![create(1, 0, 2), update(2, 2, 3), list(3, &[(1, 2)])], false),
            ("from the future", vec![create(1, 0, 5), list(3, &[(1, 5)])], false),
            ("wrong value", vec![create(1, 0, 2), list(3, &[(7, 2)])], false),
            ("undead", vec![create(1, 0, 2), delete(2, 3), list(4, &[(1, 2)])], false),
            ("twice", vec![create(1, 0, 2), list(3, &[(1, 2), (1, 2)])], false),
            ("unknown, listed", vec![create(1, 0, 2), maybe(2), list(4, &[(2, 3)])], true),
        ] {
            let verdict = check(&History { operations });
            assert_eq!(verdict == Verdict::Valid, valid, "{name}: {verdict}");
        }
    }
}
