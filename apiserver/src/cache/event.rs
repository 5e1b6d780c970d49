//! One change of one object, encoded once and shared by all watchers.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::entry::Entry;

/// What happened, as one particular watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Names one encoding of an event: the form asked for, the version served, and the type seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingKey {
    pub form: u8,
    pub version: u8,
    pub event_type: EventType,
}

/// Immutable but for the memo of encodings.
#[derive(Debug)]
pub struct Event {
    pub revision: i64,
    /// What happened to the object as such; a watcher with a selector may see another type.
    pub event_type: EventType,
    /// The new state; for a deletion the last state with the deletion's revision.
    pub entry: Arc<Entry>,
    /// The state before.
    pub previous: Option<Arc<Entry>>,
    /// The JSON line at the storage version for `event_type`; `entry.json` is a slice of it.
    pub line: Bytes,
    encoded: Mutex<SmallVec<[(EncodingKey, Bytes); 1]>>,
}

impl Event {
    pub fn new(event_type: EventType, entry: Arc<Entry>, previous: Option<Arc<Entry>>, line: Bytes) -> Self {
        Self { revision: entry.revision, event_type, entry, previous, line, encoded: Mutex::default() }
    }

    /// The encoding named by `key`, made by the first watcher that asks.
    pub fn encoded(&self, key: EncodingKey, encode: impl FnOnce() -> Bytes) -> Bytes {
        let mut memo = self.encoded.lock();
        if let Some((_, bytes)) = memo.iter().find(|(k, _)| *k == key) {
            return bytes.clone();
        }
        let bytes = encode();
        memo.push((key, bytes.clone()));
        bytes
    }

    /// Drops the encodings made so far: a watcher that comes late has them made again.
    pub fn forget_encodings(&self) {
        *self.encoded.lock() = SmallVec::new();
    }

    /// Bytes this event keeps alive, for the history's budget. What lay there before is counted, though another event
    /// may hold it as well.
    pub fn cost_bytes(&self) -> usize {
        self.line.len() + self.previous.as_ref().map_or(0, |previous| previous.json.len())
    }
}
