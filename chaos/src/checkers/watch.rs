//! What a watch promises, as etcd documents it and its robustness suite checks it: filter, ordered, unique, atomic,
//! bookmarkable, resumable, is-create, reliable, prev-kv.
//!
//! The truth is the store's own event log, read once after the run from revision 1 (and itself checked against the
//! acknowledged writes by the other checkers). Does not check timeliness: a late event is not a wrong one.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::Verdict;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub key: String,
    /// `None` for a deletion.
    pub value: Option<String>,
    pub mod_revision: i64,
    /// Zero for a deletion.
    pub create_revision: i64,
    /// Zero for a deletion.
    pub version: i64,
    /// What `prev_kv` carried, where it was asked for and there was one: value and mod_revision.
    pub previous: Option<(String, i64)>,
}

/// What the watcher asked for: all keys that start with `prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub prefix: String,
    /// Zero: from now on.
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
}

/// One response of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The header's revision.
    pub revision: i64,
    /// Empty for a progress notification.
    pub events: Vec<Event>,
}

/// One watch, from its creation to the end of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub request: Request,
    pub responses: Vec<Response>,
}

/// The store's event log: revision to the events of its transaction.
pub type Log = BTreeMap<i64, Vec<Event>>;

/// Judges every watch against the log. `compacted`: the revision history was compacted to by the end.
pub fn check(log: &Log, compacted: i64, watches: &[Watch]) -> Verdict {
    let before = previous_states(log);
    let facts = Facts { log, before: &before, compacted };
    for watch in watches {
        for (rule, judge) in RULES {
            if let Err(evidence) = judge(&facts, watch) {
                return Verdict::Invalid {
                    why: format!(
                        "a watch of {:?} from revision {} is not {rule}",
                        watch.request.prefix, watch.request.start_revision
                    ),
                    evidence: vec![evidence],
                };
            }
        }
    }
    Verdict::Valid
}

/// Names a rule as etcd's documentation does.
type Rule = (&'static str, fn(&Facts<'_>, &Watch) -> Result<(), String>);

const RULES: &[Rule] = &[
    ("filtered", filtered),
    ("ordered", ordered),
    ("unique", unique),
    ("atomic", atomic),
    ("bookmarkable", bookmarkable),
    ("reliable and resumable", reliable),
    ("right about creation", is_create),
    ("right about prev_kv", prev_kv),
];

struct Facts<'a> {
    log: &'a Log,
    /// (key, revision of its change) to the state before the change.
    before: &'a States,
    compacted: i64,
}

type States = BTreeMap<(String, i64), Option<(String, i64)>>;

fn previous_states(log: &Log) -> States {
    let mut current: BTreeMap<&str, (String, i64)> = BTreeMap::new();
    let mut before = States::new();
    for (revision, events) in log {
        for event in events {
            before.insert((event.key.clone(), *revision), current.get(event.key.as_str()).cloned());
            match &event.value {
                Some(value) => current.insert(&event.key, (value.clone(), *revision)),
                None => current.remove(event.key.as_str()),
            };
        }
    }
    before
}

fn matches(request: &Request, event: &Event) -> bool {
    let wanted = if event.value.is_some() { !request.no_put } else { !request.no_delete };
    wanted && event.key.starts_with(&request.prefix)
}

fn events(watch: &Watch) -> impl Iterator<Item = &Event> {
    watch.responses.iter().flat_map(|response| &response.events)
}

fn filtered(_: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    match events(watch).find(|event| !matches(&watch.request, event)) {
        Some(event) => Err(format!("it was sent {event:?}")),
        None => Ok(()),
    }
}

fn ordered(_: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    let mut last = 0;
    for event in events(watch) {
        if event.mod_revision < last {
            return Err(format!("after revision {last} came {event:?}"));
        }
        last = event.mod_revision;
    }
    Ok(())
}

fn unique(_: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    let mut seen = HashSet::new();
    match events(watch).find(|event| !seen.insert((event.key.as_str(), event.mod_revision))) {
        Some(event) => Err(format!("twice: {event:?}")),
        None => Ok(()),
    }
}

/// The events of one revision come in one response.
fn atomic(_: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    let mut last = 0;
    for response in &watch.responses {
        let Some(first) = response.events.first() else { continue };
        if first.mod_revision == last {
            return Err(format!("revision {last} was split over two responses"));
        }
        last = response.events.last().map_or(last, |event| event.mod_revision);
    }
    Ok(())
}

/// A progress notification at a revision says that everything up to it was sent.
fn bookmarkable(_: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    let mut bookmark = 0;
    for response in &watch.responses {
        if response.events.is_empty() {
            bookmark = bookmark.max(response.revision);
        }
        if let Some(late) = response.events.iter().find(|event| event.mod_revision <= bookmark) {
            return Err(format!("after a bookmark at {bookmark} came {late:?}"));
        }
    }
    Ok(())
}

/// Every matching event of the log between the start and the last thing heard was sent, as it is in the log.
fn reliable(facts: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    let first_heard = events(watch).next().map(|event| event.mod_revision);
    let start = match watch.request.start_revision {
        0 => match first_heard {
            Some(revision) => revision,
            None => return Ok(()),
        },
        revision => revision,
    };
    let heard_until = watch
        .responses
        .iter()
        .map(|response| response.events.last().map_or(response.revision, |event| event.mod_revision))
        .max()
        .unwrap_or(0);
    if heard_until < start {
        return Ok(());
    }
    let mut sent = events(watch);
    let expected = facts
        .log
        .range(start..=heard_until)
        .flat_map(|(_, events)| events)
        .filter(|event| matches(&watch.request, event));
    for expected in expected {
        match sent.next() {
            Some(event) if same_change(event, expected) => {}
            Some(other) => return Err(format!("{expected:?} was to come, but {other:?} came")),
            None => {
                return Err(format!("{expected:?} never came, though revision {heard_until} was reached"));
            }
        }
    }
    match sent.next() {
        Some(extra) => Err(format!("{extra:?} is not in the store's log")),
        None => Ok(()),
    }
}

fn same_change(a: &Event, b: &Event) -> bool {
    (&a.key, &a.value, a.mod_revision) == (&b.key, &b.value, b.mod_revision)
}

/// A put that makes the key has version 1 and equal revisions; any other has not.
fn is_create(facts: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    for event in events(watch).filter(|event| event.value.is_some()) {
        let existed = matches!(facts.before.get(&(event.key.clone(), event.mod_revision)), Some(Some(_)));
        let (created_now, first) = (event.create_revision == event.mod_revision, event.version == 1);
        if existed == created_now || existed == first {
            return Err(format!(
                "the key {} before {event:?}",
                if existed { "existed" } else { "did not exist" }
            ));
        }
    }
    Ok(())
}

fn prev_kv(facts: &Facts<'_>, watch: &Watch) -> Result<(), String> {
    if !watch.request.prev_kv {
        return Ok(());
    }
    for event in events(watch) {
        let truth = facts.before.get(&(event.key.clone(), event.mod_revision)).cloned().flatten();
        // What was compacted before the event was sent cannot come along (etcd's `WatchCreateRequest.prev_kv`).
        let is_forgotten = event.previous.is_none() && event.mod_revision <= facts.compacted;
        if event.previous != truth && !is_forgotten {
            return Err(format!("before {event:?} the key was {truth:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, mod_revision: i64, create_revision: i64, version: i64) -> Event {
        Event {
            key: key.into(),
            value: Some(value.into()),
            mod_revision,
            create_revision,
            version,
            previous: None,
        }
    }

    fn delete(key: &str, mod_revision: i64) -> Event {
        Event { key: key.into(), value: None, mod_revision, create_revision: 0, version: 0, previous: None }
    }

    /// Revision 2: a and b together; 3: a again; 4: b deleted.
    fn log() -> Log {
        BTreeMap::from([
            (2, vec![put("a", "1", 2, 2, 1), put("b", "1", 2, 2, 1)]),
            (3, vec![put("a", "2", 3, 2, 2)]),
            (4, vec![delete("b", 4)]),
        ])
    }

    fn sound() -> Watch {
        let request = Request {
            prefix: String::new(),
            start_revision: 2,
            prev_kv: false,
            no_put: false,
            no_delete: false,
        };
        let responses = log().into_iter().map(|(revision, events)| Response { revision, events }).collect();
        Watch { request, responses }
    }

    fn check_planted(rule: Option<&str>, plant: impl FnOnce(&mut Watch)) {
        check_compacted(0, rule, plant);
    }

    fn check_compacted(compacted: i64, rule: Option<&str>, plant: impl FnOnce(&mut Watch)) {
        let mut watch = sound();
        plant(&mut watch);
        match (check(&log(), compacted, &[watch]), rule) {
            (Verdict::Valid, None) => {}
            (Verdict::Invalid { why, .. }, Some(rule)) => assert!(why.contains(rule), "{why} for {rule}"),
            (verdict, rule) => panic!("{verdict} for {rule:?}"),
        }
    }

    #[test]
    fn each_rule_convicts_its_planted_violation() {
        check_planted(None, |_| {});
        check_planted(None, |watch| watch.responses.push(Response { revision: 4, events: Vec::new() }));
        check_planted(Some("filtered"), |watch| watch.request.prefix = "a".into());
        check_planted(Some("ordered"), |watch| watch.responses.swap(0, 1));
        check_planted(Some("unique"), |watch| {
            let again = watch.responses[1].events[0].clone();
            watch.responses[1].events.push(again);
        });
        check_planted(Some("atomic"), |watch| {
            let second = watch.responses[0].events.pop().expect("two events");
            watch.responses.insert(1, Response { revision: 2, events: vec![second] });
        });
        check_planted(Some("bookmarkable"), |watch| {
            watch.responses.insert(0, Response { revision: 3, events: Vec::new() });
        });
        check_planted(Some("reliable"), |watch| drop(watch.responses.remove(1)));
        check_planted(Some("reliable"), |watch| drop(watch.responses.remove(0)));
        check_planted(Some("reliable"), |watch| {
            watch.responses.pop();
            watch.responses.push(Response { revision: 4, events: Vec::new() });
        });
        check_planted(Some("creation"), |watch| watch.responses[1].events[0].create_revision = 3);
        check_planted(Some("creation"), |watch| watch.responses[0].events[0].create_revision = 1);
        check_planted(Some("prev_kv"), |watch| watch.request.prev_kv = true);
        check_compacted(3, Some("prev_kv"), |watch| watch.request.prev_kv = true);
        check_compacted(4, None, |watch| watch.request.prev_kv = true);
    }
}
