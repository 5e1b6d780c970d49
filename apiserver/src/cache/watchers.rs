//! Which watchers an event concerns, found by index. Pure but for pushing into queues.
//!
//! A watcher sits in exactly one bucket: the one object it fixes, else the indexed field value it fixes, else its
//! namespace, else everything. An event looks into at most five buckets, whatever the number of watchers.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::counters::Counters;
use super::entry::Entry;
use super::event::Event;
use super::filter::{FieldRef, Filter};
use super::watcher::{Closed, Queue, WatchItem};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Everything,
    Namespace(String),
    Name(String),
    Field(String),
}

#[derive(Debug)]
struct Slot {
    id: usize,
    filter: Arc<Filter>,
    queue: Arc<Queue>,
    /// Events at or below this revision were part of what the watcher was given first.
    since: i64,
}

/// The open watches of one resource.
#[derive(Debug, Default)]
pub struct Watchers {
    buckets: FxHashMap<Bucket, Vec<Slot>>,
    indexed_slot: Option<usize>,
    next_id: usize,
    len: usize,
}

impl Watchers {
    pub fn new(indexed_slot: Option<usize>) -> Self {
        Self { indexed_slot, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn add(&mut self, filter: Arc<Filter>, queue: Arc<Queue>, since: i64) -> usize {
        self.next_id += 1;
        self.len += 1;
        let bucket = self.bucket(&filter);
        self.buckets.entry(bucket).or_default().push(Slot { id: self.next_id, filter, queue, since });
        self.next_id
    }

    pub fn remove(&mut self, id: usize, filter: &Filter) {
        let bucket = self.bucket(filter);
        let Some(slots) = self.buckets.get_mut(&bucket) else { return };
        if let Some(index) = slots.iter().position(|s| s.id == id) {
            slots.swap_remove(index);
            self.len -= 1;
        }
        if slots.is_empty() {
            self.buckets.remove(&bucket);
        }
    }

    pub fn close_all(&mut self, why: Closed) {
        for slot in self.buckets.values().flatten() {
            slot.queue.close(why);
        }
    }

    /// Queues the events to every watcher that they concern.
    pub fn deliver(&self, events: &[Arc<Event>], counters: &Counters) {
        if self.len == 0 {
            return;
        }
        for event in events {
            for bucket in self.buckets_of(event) {
                for slot in self.buckets.get(&bucket).into_iter().flatten() {
                    offer(slot, event, counters);
                }
            }
        }
    }

    fn bucket(&self, filter: &Filter) -> Bucket {
        if let Some(name) = filter.name.as_deref().or_else(|| filter.equal_field(FieldRef::Name)) {
            return Bucket::Name(name.to_owned());
        }
        if let Some(value) = self.indexed_slot.and_then(|s| filter.equal_field(FieldRef::Slot(s))) {
            return Bucket::Field(value.to_owned());
        }
        match filter.namespace.as_deref().or_else(|| filter.equal_field(FieldRef::Namespace)) {
            Some(namespace) => Bucket::Namespace(namespace.to_owned()),
            None => Bucket::Everything,
        }
    }

    fn buckets_of(&self, event: &Event) -> Vec<Bucket> {
        let (namespace, name) = event.entry.namespace_and_name();
        let mut buckets = vec![Bucket::Everything, Bucket::Name(name.to_owned())];
        if !namespace.is_empty() {
            buckets.push(Bucket::Namespace(namespace.to_owned()));
        }
        if let Some(slot) = self.indexed_slot {
            let field = |e: &Entry| e.fields.get(slot).map(|v| Bucket::Field(v.to_string()));
            let new = field(&event.entry);
            let old = event.previous.as_deref().and_then(field);
            if old != new {
                buckets.extend(old);
            }
            buckets.extend(new);
        }
        buckets
    }
}

fn offer(slot: &Slot, event: &Arc<Event>, counters: &Counters) {
    if event.revision <= slot.since {
        return;
    }
    if let Some(event_type) = slot.filter.event_type(event) {
        if slot.queue.push(WatchItem { event: event.clone(), event_type }) {
            counters.dispatched.add(1);
        } else {
            counters.terminated.add(1);
        }
    }
}
