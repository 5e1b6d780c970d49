//! The pure core of one resource's cache: objects, indexes and history. No locks, no IO.
//!
//! Invariants: `history` holds every event above `window_start` in revision order; the indexes hold exactly the keys
//! of `objects`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::entry::Entry;
use super::event::Event;
use super::filter::{FieldRef, Filter, LabelRequirement};

/// History kept however old it is, so that disconnects of slow resources resume.
const HISTORY_LEN_MIN: usize = 128;
/// History kept at most; beyond it a returning watcher lists again.
const HISTORY_LEN_MAX: usize = 8192;
/// Bytes of events kept, with what lay there before them.
const HISTORY_BYTES_MAX: usize = 16 << 20;
/// Events kept whatever they cost: objects have up to 1.5 MiB, and a watcher that blinks must not list them again.
const HISTORY_LEN_OF_LARGE: usize = 16;

type KeySet = BTreeSet<Arc<str>>;

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Arc<Entry>>,
    /// Whether objects after the last one may match.
    pub more: bool,
    /// How many objects follow, when that is known without evaluating selectors.
    pub remaining: Option<u64>,
}

/// Objects, indexes and history of one resource.
#[derive(Debug, Default)]
pub struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    labels: FxHashMap<Arc<str>, FxHashMap<Arc<str>, KeySet>>,
    by_field: FxHashMap<Arc<str>, KeySet>,
    /// The field slot that `by_field` indexes.
    indexed_slot: Option<usize>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// The newest revision when the history was last aged.
    aged_to: i64,
    /// Events were lost: what is here is true of [`State::revision`], and of nothing newer, until the next load.
    pub is_stale: bool,
    /// The revision of the newest event that the history no longer holds.
    pub window_start: i64,
    /// The revision of the newest change applied, or of the load.
    pub revision: i64,
    /// Grows with every change, never falls (not even across reloads).
    pub changes: u64,
}

impl State {
    pub fn new(indexed_slot: Option<usize>) -> Self {
        Self { indexed_slot, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.objects.get(key)
    }

    /// Starts again from a load at `revision`.
    pub fn reset(&mut self, entries: Vec<Arc<Entry>>, revision: i64) {
        let changes = self.changes + 1;
        *self = Self { window_start: revision, revision, changes, ..Self::new(self.indexed_slot) };
        for entry in entries {
            self.index(&entry);
            self.objects.insert(entry.key.clone(), entry);
        }
    }

    /// The stored copy of a label key or value, so that equal strings share memory.
    pub fn intern_label(&self, key: &str, value: &str) -> (Arc<str>, Arc<str>) {
        let Some((known, values)) = self.labels.get_key_value(key) else { return (key.into(), value.into()) };
        let value = values.get_key_value(value).map_or_else(|| value.into(), |(v, _)| v.clone());
        (known.clone(), value)
    }

    /// Puts the object in (`Some`) or takes it out (`None`), and returns what was there.
    pub fn replace(&mut self, key: &str, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let previous = match &entry {
            Some(new) => self.objects.insert(new.key.clone(), new.clone()),
            None => self.objects.remove(key),
        };
        if let Some(old) = &previous {
            self.unindex(old);
            old.release_parsed();
        }
        if let Some(new) = &entry {
            self.index(new);
        }
        self.changes += 1;
        previous
    }

    /// Adds the event to the history and drops what the budget no longer covers.
    pub fn remember(&mut self, event: Arc<Event>) {
        self.revision = self.revision.max(event.revision);
        self.history_bytes += event.cost_bytes();
        self.history.push_back(event);
        while self.history.len() > HISTORY_LEN_MAX
            || (self.history_bytes > HISTORY_BYTES_MAX && self.history.len() > HISTORY_LEN_OF_LARGE)
        {
            self.forget_oldest();
        }
    }

    /// Drops the events that were there when this was called the last time, but for the newest few, and the encodings
    /// of those. Called at an interval, it keeps every event for at least that long, and a burst for no more than twice
    /// that.
    pub fn age(&mut self) {
        while self.history.len() > HISTORY_LEN_MIN
            && self.history.front().is_some_and(|event| event.revision <= self.aged_to)
        {
            self.forget_oldest();
        }
        let old = self.history.iter().take_while(|event| event.revision <= self.aged_to);
        old.for_each(|event| event.forget_encodings());
        self.history.shrink_to(2 * self.history.len());
        self.aged_to = self.revision;
    }

    fn forget_oldest(&mut self) {
        if let Some(old) = self.history.pop_front() {
            self.history_bytes -= old.cost_bytes();
            self.window_start = old.revision;
        }
    }

    /// The events above `since`, or `None` when some of them are gone.
    pub fn events_after(&self, since: i64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if since < self.window_start {
            return None;
        }
        let start = self.history.partition_point(|e| e.revision <= since);
        Some(self.history.range(start..))
    }

    /// One page of what matches, in key order, after the key `after`; `limit` 0 means all.
    pub fn list(&self, filter: &Filter, namespaced: bool, after: Option<&str>, limit: usize) -> Page {
        if let Some(key) = filter.exact_key(namespaced) {
            let found = self
                .objects
                .get(key.as_str())
                .filter(|e| filter.matches(e) && after.is_none_or(|a| a < &*e.key));
            return Page { entries: found.into_iter().cloned().collect(), ..Page::default() };
        }
        if let Some(keys) = self.candidates(filter) {
            let entries =
                keys.iter().filter(|k| after.is_none_or(|a| a < &***k)).filter_map(|k| self.objects.get(k));
            return take_page(entries, filter, limit, false);
        }
        let in_namespace = filter.namespace.as_ref().map(|n| format!("{n}/"));
        let start = match (after, in_namespace.as_deref()) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(prefix)) => Bound::Included(prefix),
            (None, None) => Bound::Unbounded,
        };
        let range = self.objects.range::<str, _>((start, Bound::Unbounded)).map(|(_, e)| e);
        let range = range.take_while(|e| in_namespace.as_ref().is_none_or(|p| e.key.starts_with(p.as_str())));
        take_page(range, filter, limit, !filter.has_selectors())
    }

    /// The smallest indexed set that holds every match, sorted; `None` when no index helps.
    fn candidates(&self, filter: &Filter) -> Option<Vec<Arc<str>>> {
        let field = self.indexed_slot.and_then(|s| filter.equal_field(FieldRef::Slot(s)));
        let by_field = field.map(|value| self.by_field.get(value).into_iter().collect());
        let by_label = filter.labels.iter().filter_map(|r| self.label_sets(r));
        let size = |sets: &Vec<&KeySet>| sets.iter().map(|s| s.len()).sum::<usize>();
        let sets = by_field.into_iter().chain(by_label).min_by_key(size)?;
        if size(&sets) >= self.objects.len() {
            return None;
        }
        let mut keys: Vec<_> = sets.iter().flat_map(|s| s.iter().cloned()).collect();
        if sets.len() > 1 {
            keys.sort_unstable();
            keys.dedup();
        }
        Some(keys)
    }

    /// The index entries that hold whatever meets the requirement, when the index can say.
    fn label_sets(&self, requirement: &LabelRequirement) -> Option<Vec<&KeySet>> {
        match requirement {
            LabelRequirement::In(key, values) => {
                let index = self.labels.get(key.as_str());
                Some(values.iter().filter_map(|v| index?.get(v.as_str())).collect())
            }
            LabelRequirement::Exists(key) => {
                Some(self.labels.get(key.as_str()).into_iter().flat_map(|i| i.values()).collect())
            }
            _ => None,
        }
    }

    fn index(&mut self, entry: &Entry) {
        for (key, value) in &entry.labels {
            let values = self.labels.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().insert(entry.key.clone());
        }
        if let Some(value) = self.indexed_slot.and_then(|s| entry.fields.get(s)) {
            self.by_field.entry(value.clone()).or_default().insert(entry.key.clone());
        }
    }

    fn unindex(&mut self, entry: &Entry) {
        for (key, value) in &entry.labels {
            let Some(values) = self.labels.get_mut(key) else { continue };
            remove_from(values, value, &entry.key);
            if values.is_empty() {
                self.labels.remove(key);
            }
        }
        if let Some(value) = self.indexed_slot.and_then(|s| entry.fields.get(s)) {
            remove_from(&mut self.by_field, value, &entry.key);
        }
    }
}

fn remove_from(index: &mut FxHashMap<Arc<str>, KeySet>, value: &Arc<str>, key: &Arc<str>) {
    if let Some(set) = index.get_mut(value) {
        set.remove(key);
        if set.is_empty() {
            index.remove(value);
        }
    }
}

fn take_page<'a>(
    mut entries: impl Iterator<Item = &'a Arc<Entry>>,
    filter: &Filter,
    limit: usize,
    countable: bool,
) -> Page {
    let mut page = Page::default();
    for entry in entries.by_ref() {
        if !filter.matches(entry) {
            continue;
        }
        if limit > 0 && page.entries.len() == limit {
            page.more = true;
            page.remaining = countable.then(|| 1 + entries.count() as u64);
            return page;
        }
        page.entries.push(entry.clone());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn entry(key: &str, labels: &[(&str, &str)], node: &str) -> Arc<Entry> {
        let labels = labels.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect();
        Arc::new(Entry::new(key.into(), 1, Bytes::new(), labels, Box::new([node.into()])))
    }

    fn keys(page: &Page) -> Vec<String> {
        page.entries.iter().map(|e| e.key.to_string()).collect()
    }

    #[test]
    fn pages_follow_each_other_within_a_namespace() {
        let mut state = State::new(None);
        for key in ["a/1", "a/2", "a/3", "a-b/1", "b/1"] {
            state.replace(key, Some(entry(key, &[], "")));
        }
        let filter = Filter { namespace: Some("a".into()), ..Filter::default() };
        let first = state.list(&filter, true, None, 2);
        assert_eq!(
            (keys(&first), first.more, first.remaining),
            (vec!["a/1".into(), "a/2".into()], true, Some(1))
        );
        let second = state.list(&filter, true, Some("a/2"), 2);
        assert_eq!((keys(&second), second.more), (vec!["a/3".to_owned()], false));
    }

    /// An event that writes 1 KiB over what `previous` is.
    fn event(revision: i64, previous: Option<&Arc<Event>>) -> Arc<Event> {
        let json = Bytes::from(vec![b' '; 1 << 10]);
        let entry = Arc::new(Entry::new("a".into(), revision, json.clone(), Box::default(), Box::default()));
        let previous = previous.map(|event| event.entry.clone());
        Arc::new(Event::new(super::super::event::EventType::Modified, entry, previous, json))
    }

    #[test]
    fn a_burst_of_history_goes_with_time_and_the_last_events_stay() {
        let mut state = State::new(None);
        for revision in 1..=2000 {
            let last = state.history.back().cloned();
            state.remember(event(revision, last.as_ref()));
        }
        state.age();
        assert_eq!(
            (state.history.len(), state.window_start),
            (2000, 0),
            "what came since the last time stays"
        );
        state.remember(event(2001, None));
        state.age();
        assert_eq!((state.history.len(), state.window_start), (HISTORY_LEN_MIN, 1873));
        assert_eq!(state.events_after(1872).map(Iterator::count), None);
        assert_eq!(state.events_after(1999).map(Iterator::count), Some(2));
        let held: usize = state.history.iter().map(|event| event.cost_bytes()).sum();
        assert_eq!(state.history_bytes, held);
        state.age();
        assert_eq!(state.history.len(), HISTORY_LEN_MIN, "a quiet resource keeps its last events");
    }

    #[test]
    fn history_is_bounded_by_bytes_whatever_the_size_of_objects() {
        let mut state = State::new(None);
        for revision in 1..=40 {
            let json = Bytes::from(vec![b' '; 1 << 20]);
            let entry =
                Arc::new(Entry::new("a".into(), revision, json.clone(), Box::default(), Box::default()));
            let kind = super::super::event::EventType::Added;
            state.remember(Arc::new(Event::new(kind, entry, None, json)));
        }
        assert_eq!((state.history.len(), state.window_start), (HISTORY_LEN_OF_LARGE, 24));
    }

    proptest! {
        /// The indexes give what a scan gives.
        #[test]
        fn indexed_lists_equal_scans(
            objects in proptest::collection::vec((0..30u8, 0..3u8, 0..3u8, any::<bool>()), 0..60),
            label in 0..3u8, node in 0..4u8,
        ) {
            let mut state = State::new(Some(0));
            for (name, label, node, present) in &objects {
                let key = format!("ns/{name}");
                let new = entry(&key, &[("l", &label.to_string())], &node.to_string());
                state.replace(&key, present.then_some(new));
            }
            let filter = Filter {
                labels: vec![LabelRequirement::In("l".into(), vec![label.to_string()])],
                fields: if node < 3 {
                    vec![super::super::filter::FieldRequirement {
                        field: FieldRef::Slot(0), equals: true, value: node.to_string(),
                    }]
                } else { vec![] },
                ..Filter::default()
            };
            let scan: Vec<_> =
                state.objects.values().filter(|e| filter.matches(e)).map(|e| e.key.to_string()).collect();
            prop_assert_eq!(keys(&state.list(&filter, true, None, 0)), scan);
        }
    }
}
