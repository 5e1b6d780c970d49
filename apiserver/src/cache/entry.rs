//! One object in a cache: its served bytes, what selectors look at, and encodings made when first asked for.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

/// Immutable; shared by the cache, the history, every list and every watcher.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name`, or `name` where the resource has no namespaces.
    pub key: Arc<str>,
    /// The revision that wrote it (for the last state of a deleted object: that deleted it).
    pub revision: i64,
    /// The served JSON at the storage version, resourceVersion included.
    pub json: Bytes,
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// The selectable fields in the order of the cache's definitions.
    pub fields: Box<[Arc<str>]>,
    parsed: Mutex<Parsed>,
    /// The protobuf message (no envelope) at the storage version; `None` inside when the kind has none.
    protobuf: OnceLock<Option<Bytes>>,
}

/// The parsed object. A tree is several times larger than the bytes, so it lives while somebody uses it, and longer for
/// few resources only.
#[derive(Debug, Default)]
struct Parsed {
    shared: Weak<Value>,
    kept: Option<Arc<Value>>,
    keep: bool,
}

impl Entry {
    pub fn new(
        key: Arc<str>,
        revision: i64,
        json: Bytes,
        labels: Box<[(Arc<str>, Arc<str>)]>,
        fields: Box<[Arc<str>]>,
    ) -> Self {
        let (parsed, protobuf) = (Mutex::default(), OnceLock::new());
        Self { key, revision, json, labels, fields, parsed, protobuf }
    }

    /// The same entry, which holds on to its parsed form once it has one.
    pub fn keeping_parsed(mut self, keep: bool) -> Self {
        self.parsed.get_mut().keep = keep;
        self
    }

    /// Lets go of the parsed form: the object has a newer state, and this one is only history.
    pub fn release_parsed(&self) {
        let mut slot = self.parsed.lock();
        slot.keep = false;
        slot.kept = None;
    }

    /// Namespace (empty where there is none) and name.
    pub fn namespace_and_name(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }

    /// The parsed object, shared with whoever else holds it now.
    pub fn value(&self) -> Arc<Value> {
        let mut slot = self.parsed.lock();
        if let Some(value) = slot.shared.upgrade() {
            return value;
        }
        let value = Arc::new(serde_json::from_slice(&self.json).unwrap_or(Value::Null));
        slot.kept = slot.keep.then(|| value.clone());
        slot.shared = Arc::downgrade(&value);
        value
    }

    /// The protobuf encoding, made once by `encode`.
    pub fn protobuf(&self, encode: impl FnOnce(&Value) -> Option<Bytes>) -> Option<Bytes> {
        self.protobuf.get_or_init(|| encode(&self.value())).clone()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }
}
