//! Deciding what to write for an event: nothing, a new object, or a count on an old one. No clock, no IO.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::Occurrence;
use crate::client::Bucket;

/// Most objects that are remembered (client-go's number); the oldest are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// From this many different messages of one reason on, they become one event.
const SIMILAR_MAX: usize = 10;
/// How long similar events are gathered, in seconds.
const SIMILAR_INTERVAL_SECS: i64 = 600;
/// Events one source may report of one object at once, and then a second.
const SPAM_BURST: u32 = 25;
const SPAM_PER_SEC: f64 = 1.0 / 300.0;

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new event with this message.
    Create { name: String, message: String },
    /// The event of that name happened again.
    Update { name: String, message: String, count: i32, first: Timestamp },
}

impl Write {
    pub fn name(&self) -> &str {
        match self {
            Write::Create { name, .. } | Write::Update { name, .. } => name,
        }
    }
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    count: i32,
    first: Timestamp,
}

/// The memory of what one source reported.
#[derive(Debug, Default)]
pub struct Correlator {
    spam: Remembered<Bucket>,
    similar: Remembered<Similar>,
    seen: Remembered<Seen>,
}

impl Correlator {
    /// Decides about one event; `None` when its object reports too much.
    pub fn observe(&mut self, event: &Occurrence) -> Option<Write> {
        let object = object_key(event);
        let source = format!("{object}\u{0}{}", event.event_type.as_str());
        let bucket = self.spam.get_or_insert(source, || Bucket::new(SPAM_PER_SEC, SPAM_BURST));
        if !bucket.try_take(since_epoch(event.at)) {
            return None;
        }
        let group = format!("{object}\u{0}{}\u{0}{}", event.event_type.as_str(), event.reason);
        let (key, message) = self.gather(event, group);
        let fresh = Seen { name: event_name(event), count: 0, first: event.at };
        let seen = self.seen.get_or_insert(key, || fresh);
        seen.count = seen.count.saturating_add(1);
        Some(if seen.count == 1 {
            Write::Create { name: seen.name.clone(), message }
        } else {
            Write::Update { name: seen.name.clone(), message, count: seen.count, first: seen.first }
        })
    }

    /// The event is gone from the server: the next of its kind is a new one.
    pub fn forget(&mut self, name: &str) {
        self.seen.remove_where(|seen| seen.name == name);
    }

    /// The key under which the event is counted, and its message: its own, or the common one of many similar.
    fn gather(&mut self, event: &Occurrence, group: String) -> (String, String) {
        let similar = self
            .similar
            .get_or_insert(group.clone(), || Similar { messages: BTreeSet::new(), last: event.at });
        if event.at.as_second() - similar.last.as_second() > SIMILAR_INTERVAL_SECS {
            similar.messages.clear();
        }
        similar.last = event.at;
        similar.messages.insert(event.message.clone());
        if similar.messages.len() < SIMILAR_MAX {
            return (format!("{group}\u{0}{}", event.message), event.message.clone());
        }
        similar.messages.pop_first();
        (group, format!("(combined from similar events): {}", event.message))
    }
}

fn object_key(event: &Occurrence) -> String {
    let r = &event.regarding;
    let parts = [&r.api_version, &r.kind, &r.namespace, &r.name, &r.uid, &r.field_path];
    let parts: Vec<&str> = parts.into_iter().map(|p| p.as_deref().unwrap_or_default()).collect();
    parts.join("\u{0}")
}

/// client-go's names: the object's name and the time in hexadecimal nanoseconds.
fn event_name(event: &Occurrence) -> String {
    let object = event.regarding.name.as_deref().unwrap_or_default();
    format!("{object}.{:x}", event.at.as_nanosecond())
}

fn since_epoch(t: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(t.as_millisecond()).unwrap_or(0))
}

/// A map that forgets its oldest entries.
#[derive(Debug)]
struct Remembered<T> {
    entries: HashMap<String, T>,
    order: VecDeque<String>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Remembered { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Remembered<T> {
    fn get_or_insert(&mut self, key: String, make: impl FnOnce() -> T) -> &mut T {
        if !self.entries.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
        self.entries.entry(key).or_insert_with(make)
    }

    fn remove_where(&mut self, gone: impl Fn(&T) -> bool) {
        self.entries.retain(|_, entry| !gone(entry));
        let entries = &self.entries;
        self.order.retain(|key| entries.contains_key(key));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;
    use crate::events::EventType;

    fn event(name: &str, message: &str, at: i64) -> Occurrence {
        Occurrence {
            regarding: ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() },
            event_type: EventType::Normal,
            reason: "Tested".to_owned(),
            action: String::new(),
            message: message.to_owned(),
            at: Timestamp::from_second(at).expect("in range"),
        }
    }

    #[test]
    fn repetitions_are_counted() {
        let mut correlator = Correlator::default();
        let Some(Write::Create { name, .. }) = correlator.observe(&event("a", "m", 10)) else {
            panic!("is new")
        };
        assert_eq!(name, "a.2540be400");
        let again = correlator.observe(&event("a", "m", 20)).expect("is written");
        let first = Timestamp::from_second(10).expect("in range");
        assert_eq!(again, Write::Update { name: name.clone(), message: "m".to_owned(), count: 2, first });
        correlator.forget(&name);
        assert!(matches!(correlator.observe(&event("a", "m", 30)), Some(Write::Create { .. })));
    }

    #[test]
    fn similar_events_become_one() {
        let mut correlator = Correlator::default();
        let writes: Vec<Write> =
            (0..13).filter_map(|i| correlator.observe(&event("a", &format!("m{i}"), 100 + i))).collect();
        let combined: Vec<&Write> = writes
            .iter()
            .filter(|w| matches!(w, Write::Create { message, .. } | Write::Update { message, .. } if message.starts_with("(combined")))
            .collect();
        assert_eq!(combined.len(), 4);
        assert!(matches!(combined[3], Write::Update { count: 4, .. }));
    }

    #[test]
    fn floods_are_silenced() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.observe(&event("a", "m", 1000)).is_some()).count();
        assert_eq!(written, SPAM_BURST as usize);
        assert!(correlator.observe(&event("b", "m", 1000)).is_some());
        assert!(correlator.observe(&event("a", "m", 1000 + 301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for i in 0..REMEMBERED_MAX + 10 {
            correlator.observe(&event(&format!("o{i}"), "m", 1));
        }
        assert_eq!(correlator.seen.entries.len(), REMEMBERED_MAX);
    }
}
