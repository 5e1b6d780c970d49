//! What a deletion does to one object, decided without IO.
//!
//! Source: apiserver `registry/rest/delete.go` and `registry/generic/registry/store.go`.

use jiff::{SignedDuration, Timestamp};
use machinery::status::StatusError;
use machinery::time::{format_time, parse_rfc3339};
use serde_json::Value;

use super::facts::DefaultPropagation;
use super::meta;
use super::meta_checks::{FOREGROUND, ORPHAN};
use super::options::{DeleteOptions, Propagation};

/// The longest grace period there is, a century in seconds: clients ask for any number, and its end must be a date.
const GRACE_SECS_MAX: i64 = 100 * 365 * 24 * 3600;

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Deletion {
    /// Take it out of the store.
    Now,
    /// Write this and wait for finalizers or the end of the grace period.
    Mark(Value),
    /// It is already on its way; nothing changes.
    Pending,
}

/// Fails when the object is not the one the caller means; upstream names the kind here, not the resource.
pub fn check_preconditions(
    group: &str,
    kind: &str,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), StatusError> {
    let conflict = |why: String| Err(StatusError::conflict(group, kind, meta::name(object), why));
    let uid = meta::text(object, "uid");
    if let Some(wanted) = options.precondition_uid.as_deref().filter(|u| *u != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    let revision = meta::text(object, "resourceVersion");
    if let Some(wanted) = options.precondition_revision.as_deref().filter(|r| *r != revision) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
        ));
    }
    Ok(())
}

/// Decides one deletion. `grace` is the period the kind grants for a first deletion (`None`: it has none).
pub fn decide(
    object: &Value,
    options: &DeleteOptions,
    policy: DefaultPropagation,
    grace: Option<i64>,
    now: Timestamp,
) -> Deletion {
    let mut next = object.clone();
    let graceful = match start_grace(&mut next, options, grace, now) {
        Grace::None => None,
        Grace::Pending => {
            // A pending deletion can still change what happens to dependents.
            return match set_dependents_finalizer(&mut next, options, policy) {
                true => Deletion::Mark(next),
                false => Deletion::Pending,
            };
        }
        Grace::Started(secs) => Some(secs),
    };
    let finalizers_changed = set_dependents_finalizer(&mut next, options, policy);
    let pending_finalizers = !meta::finalizers(&next).is_empty();
    match graceful {
        Some(secs) if secs > 0 || pending_finalizers => Deletion::Mark(next),
        Some(_) => Deletion::Now,
        None if pending_finalizers => {
            let marked = mark_deleting(&mut next, now);
            if marked || finalizers_changed { Deletion::Mark(next) } else { Deletion::Pending }
        }
        None => Deletion::Now,
    }
}

/// How an object that is taken out at once looks in the answer: kinds with a grace period end with none left.
pub fn last_state(object: &Value, grace: Option<i64>, now: Timestamp) -> Option<Value> {
    let secs = grace?;
    let mut last = object.clone();
    if meta::is_deleting(object) {
        meta::set(&mut last, "deletionGracePeriodSeconds", 0);
        return Some(last);
    }
    set_deletion(&mut last, now, secs);
    bump_generation(&mut last);
    Some(last)
}

enum Grace {
    None,
    Pending,
    Started(i64),
}

fn start_grace(object: &mut Value, options: &DeleteOptions, granted: Option<i64>, now: Timestamp) -> Grace {
    let asked = options.grace_period_secs.map(|s| if s < 0 { 1 } else { s });
    if !meta::is_deleting(object) {
        let Some(secs) = granted.map(|secs| secs.min(GRACE_SECS_MAX)) else { return Grace::None };
        set_deletion(object, later(now, secs), secs);
        bump_generation(object);
        return Grace::Started(secs);
    }
    let current = meta::grace_period_secs(object).unwrap_or(0);
    if current == 0 {
        return Grace::None;
    }
    match asked {
        Some(shorter) if shorter < current => {
            let end = parse_rfc3339(meta::text(object, "deletionTimestamp")).unwrap_or(now);
            let end = later(later(end, current.saturating_neg()), shorter);
            let (end, secs) = if end < now { (now, shorter.min(1)) } else { (end, shorter) };
            set_deletion(object, end, secs);
            Grace::Started(secs)
        }
        _ => Grace::Pending,
    }
}

/// So many seconds later, or the last moment that can be written down.
fn later(at: Timestamp, secs: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(secs)).unwrap_or(at)
}

fn set_deletion(object: &mut Value, at: Timestamp, grace_secs: i64) {
    meta::set(object, "deletionTimestamp", format_time(at));
    meta::set(object, "deletionGracePeriodSeconds", grace_secs);
}

fn bump_generation(object: &mut Value) {
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set(object, "generation", generation + 1);
    }
}

/// Marks an object that only waits for finalizers. False when it was marked already.
fn mark_deleting(object: &mut Value, now: Timestamp) -> bool {
    let first = !meta::is_deleting(object);
    if first {
        meta::set(object, "deletionTimestamp", format_time(now));
        bump_generation(object);
    }
    let had_zero = meta::grace_period_secs(object) == Some(0);
    meta::set(object, "deletionGracePeriodSeconds", 0);
    first || !had_zero
}

/// Puts in or takes out the finalizers for dependents. True when they changed.
fn set_dependents_finalizer(object: &mut Value, options: &DeleteOptions, policy: DefaultPropagation) -> bool {
    if policy == DefaultPropagation::Unsupported {
        return false;
    }
    let before: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    let wanted = match options.propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => match before.iter().find(|f| *f == ORPHAN || *f == FOREGROUND) {
            Some(kept) if kept == ORPHAN => Some(ORPHAN),
            Some(_) => Some(FOREGROUND),
            None => (policy == DefaultPropagation::Orphan).then_some(ORPHAN),
        },
    };
    let mut after: Vec<String> =
        before.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    after.extend(wanted.map(str::to_owned));
    let mut sorted = (before.clone(), after.clone());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    if sorted.0 == sorted.1 {
        return false;
    }
    meta::set_finalizers(object, &after);
    true
}

/// Whether an update of an object under deletion completes it: nothing holds it any more.
pub fn completes_deletion(new: &Value, old: &Value) -> bool {
    let waits_for_grace = meta::grace_period_secs(old).is_some_and(|s| s != 0);
    meta::is_deleting(old) && meta::is_deleting(new) && meta::finalizers(new).is_empty() && !waits_for_grace
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_700_000_000;

    fn run(
        object: &Value,
        options: &DeleteOptions,
        policy: DefaultPropagation,
        grace: Option<i64>,
    ) -> Deletion {
        decide(object, options, policy, grace, Timestamp::from_second(NOW).expect("time"))
    }

    fn finalizers(deletion: &Deletion) -> Option<Vec<&str>> {
        match deletion {
            Deletion::Mark(object) => Some(meta::finalizers(object)),
            _ => None,
        }
    }

    #[test]
    fn plain_objects_go_at_once() {
        let object = json!({"metadata":{"name":"a"}});
        let result = run(&object, &DeleteOptions::default(), DefaultPropagation::Background, None);
        assert_eq!(result, Deletion::Now);
    }

    #[test]
    fn policies_become_finalizers() {
        let object = json!({"metadata":{"name":"a","finalizers":["x.io/y"]}});
        for (asked, policy, expected) in [
            (Some(Propagation::Foreground), DefaultPropagation::Background, vec!["x.io/y", FOREGROUND]),
            (Some(Propagation::Orphan), DefaultPropagation::Background, vec!["x.io/y", ORPHAN]),
            (Some(Propagation::Background), DefaultPropagation::Orphan, vec!["x.io/y"]),
            (None, DefaultPropagation::Orphan, vec!["x.io/y", ORPHAN]),
        ] {
            let options = DeleteOptions { propagation: asked, ..DeleteOptions::default() };
            let result = run(&object, &options, policy, None);
            assert_eq!(finalizers(&result), Some(expected), "{asked:?} {policy:?}");
        }
    }

    #[test]
    fn grace_starts_shortens_and_ends() {
        let object = json!({"metadata":{"name":"a","generation":1}});
        let options = DeleteOptions::default();
        let Deletion::Mark(marked) = run(&object, &options, DefaultPropagation::Background, Some(30)) else {
            panic!("a graceful deletion marks the object");
        };
        assert_eq!((meta::grace_period_secs(&marked), meta::generation(&marked)), (Some(30), 2));
        assert_eq!(run(&marked, &options, DefaultPropagation::Background, Some(30)), Deletion::Pending);
        let shorter = DeleteOptions { grace_period_secs: Some(5), ..DeleteOptions::default() };
        let Deletion::Mark(again) = run(&marked, &shorter, DefaultPropagation::Background, Some(5)) else {
            panic!("a shorter period changes the object");
        };
        assert_eq!(meta::grace_period_secs(&again), Some(5));
        let now = DeleteOptions { grace_period_secs: Some(0), ..DeleteOptions::default() };
        assert_eq!(run(&again, &now, DefaultPropagation::Background, Some(0)), Deletion::Now);
    }

    #[test]
    fn grace_without_end_ends() {
        let object = json!({"metadata":{"name":"a","generation":1}});
        let options = DeleteOptions { grace_period_secs: Some(i64::MAX), ..DeleteOptions::default() };
        let Deletion::Mark(marked) = run(&object, &options, DefaultPropagation::Background, Some(i64::MAX))
        else {
            panic!("a graceful deletion marks the object");
        };
        assert_eq!(meta::grace_period_secs(&marked), Some(GRACE_SECS_MAX));
        assert_eq!(meta::text(&marked, "deletionTimestamp"), "2123-10-21T22:13:20Z");
        // What another server has stored is taken as it is.
        for (end, secs) in [("2023-11-14T22:13:20Z", i64::MAX), ("9999-12-30T22:00:00Z", i64::MAX - 1)] {
            let stored =
                json!({"metadata":{"name":"a","deletionTimestamp":end,"deletionGracePeriodSeconds":secs}});
            let shorter = DeleteOptions { grace_period_secs: Some(5), ..DeleteOptions::default() };
            let result = run(&stored, &shorter, DefaultPropagation::Background, Some(5));
            assert!(matches!(result, Deletion::Mark(_)), "{result:?}");
        }
    }

    #[test]
    fn last_finalizer_completes() {
        let old =
            json!({"metadata":{"deletionTimestamp":"t","deletionGracePeriodSeconds":0,"finalizers":["a/b"]}});
        let new = json!({"metadata":{"deletionTimestamp":"t","deletionGracePeriodSeconds":0}});
        assert!(completes_deletion(&new, &old));
        assert!(!completes_deletion(&old, &old));
    }
}
