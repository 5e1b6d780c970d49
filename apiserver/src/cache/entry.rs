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
    /// Shared while somebody uses it; parsed trees are several times larger than the bytes, so few are kept alive.
    parsed: Mutex<Weak<Value>>,
    kept: OnceLock<Arc<Value>>,
    keep: bool,
    /// The protobuf message (no envelope) at the storage version; `None` inside when the kind has none.
    protobuf: OnceLock<Option<Bytes>>,
}

impl Entry {
    pub fn new(
        key: Arc<str>,
        revision: i64,
        json: Bytes,
        labels: Box<[(Arc<str>, Arc<str>)]>,
        fields: Box<[Arc<str>]>,
    ) -> Self {
        let parsed = Mutex::new(Weak::new());
        Self {
            key,
            revision,
            json,
            labels,
            fields,
            parsed,
            kept: OnceLock::new(),
            keep: false,
            protobuf: OnceLock::new(),
        }
    }

    /// The same entry, which holds on to its parsed form once it has one.
    pub fn keeping_parsed(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Namespace (empty where there is none) and name.
    pub fn namespace_and_name(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }

    /// The parsed object, shared with whoever else holds it now.
    pub fn value(&self) -> Arc<Value> {
        let mut slot = self.parsed.lock();
        if let Some(value) = slot.upgrade() {
            return value;
        }
        let value = Arc::new(serde_json::from_slice(&self.json).unwrap_or(Value::Null));
        if self.keep {
            let _ = self.kept.set(value.clone());
        }
        *slot = Arc::downgrade(&value);
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
