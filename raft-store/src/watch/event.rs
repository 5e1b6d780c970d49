//! What watchers receive.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use proto::mvccpb::{Event, event::EventType};

/// One change, shared by every watcher that matches it.
#[derive(Debug)]
pub struct WatchEvent {
    /// The change; `prev_kv` is set whenever the key existed before, whether or not a watcher asked for it.
    event: Event,
}

impl WatchEvent {
    /// Wraps a change.
    pub fn new(event: Event) -> Arc<Self> {
        Arc::new(Self { event })
    }

    /// The change, with the previous value where there was one.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The revision of the change.
    pub fn revision(&self) -> i64 {
        self.event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
    }

    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        static NO_KEY: Bytes = Bytes::new();
        self.event.kv.as_ref().map_or(&NO_KEY, |kv| &kv.key)
    }

    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.event.r#type == EventType::Delete as i32
    }

    /// The message a watcher is sent.
    pub fn message(&self, with_prev: bool) -> Event {
        let prev_kv = if with_prev { self.event.prev_kv.clone() } else { None };
        Event { r#type: self.event.r#type, kv: self.event.kv.clone(), prev_kv }
    }

    /// Bytes this event keeps in memory, about.
    pub fn size_bytes(&self) -> usize {
        let size =
            |kv: &Option<proto::mvccpb::KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        // Structs and allocation headers around the bytes.
        const OVERHEAD: usize = 256;
        size(&self.event.kv) + size(&self.event.prev_kv) + OVERHEAD
    }
}

/// Changes in order, shared by all watchers that get exactly these; their wire form is made once.
#[derive(Debug, Default)]
pub struct EventBatch {
    events: Vec<Arc<WatchEvent>>,
    plain: OnceLock<Bytes>,
    with_prev: OnceLock<Bytes>,
}

impl EventBatch {
    /// Wraps changes; whole revisions only.
    pub fn new(events: Vec<Arc<WatchEvent>>) -> Arc<Self> {
        Arc::new(Self { events, plain: OnceLock::new(), with_prev: OnceLock::new() })
    }

    /// The changes, in revision order.
    pub fn events(&self) -> &[Arc<WatchEvent>] {
        &self.events
    }

    /// Bytes the batch keeps in memory, about.
    pub fn size_bytes(&self) -> usize {
        self.events.iter().map(|event| event.size_bytes()).sum()
    }

    /// The `events` field of a `WatchResponse`, encoded, with or without previous values.
    pub fn wire(&self, with_prev: bool) -> &Bytes {
        let cell = if with_prev { &self.with_prev } else { &self.plain };
        cell.get_or_init(|| {
            let mut wire = Vec::with_capacity(self.size_bytes());
            for event in &self.events {
                const EVENTS_FIELD: u32 = 11;
                prost::encoding::message::encode(EVENTS_FIELD, &event.message(with_prev), &mut wire);
            }
            wire.into()
        })
    }
}

/// One message to a watcher.
#[derive(Clone, Debug)]
pub enum WatchUpdate {
    /// Changes of one or more whole revisions.
    Events {
        /// The watch they belong to.
        watch_id: i64,
        /// The store's revision when they were sent.
        revision: i64,
        /// The changes, in order.
        events: Arc<EventBatch>,
        /// Whether the watch asked for previous values.
        prev_kv: bool,
    },
    /// Everything up to `revision` has been delivered. `watch_id` is -1 when it speaks for the whole stream.
    Progress {
        /// The watch, or -1.
        watch_id: i64,
        /// The bookmark.
        revision: i64,
    },
    /// The watch is over.
    Canceled {
        /// The watch.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
        /// Not 0 when the wanted history has been compacted: the oldest revision that can be watched.
        compact_revision: i64,
        /// Why, in etcd's words; empty when the client asked for it.
        reason: String,
    },
}

impl WatchUpdate {
    /// The watch it belongs to, or -1.
    pub fn watch_id(&self) -> i64 {
        match self {
            Self::Events { watch_id, .. }
            | Self::Progress { watch_id, .. }
            | Self::Canceled { watch_id, .. } => *watch_id,
        }
    }
}
