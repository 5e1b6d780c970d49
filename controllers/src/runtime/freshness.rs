//! The rule that a key is never run on a cache older than its own last write. Each write leaves a mark (the revision
//! it made, or the uid it deleted); a key is fresh when its caches show all its marks.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::key::Key;
use super::store::AnyStore;

/// What one write made visible, if the cache has caught up.
#[derive(Clone)]
pub enum Mark {
    /// The cache must have seen this revision, or have listed after `lists_begun`.
    Revision {
        /// Of the object written.
        revision: u64,
        /// Lists begun when the write was acknowledged.
        lists_begun: u64,
    },
    /// The cache must not show this object any more (or show it being deleted).
    Gone {
        /// The object.
        key: Key,
        /// Its uid.
        uid: String,
    },
}

/// The marks of one key in one cache.
struct StoreMarks {
    store: Arc<dyn AnyStore>,
    revision: Option<(u64, u64)>,
    gone: Vec<(Key, String)>,
}

impl StoreMarks {
    fn settle(&mut self) -> bool {
        if let Some((revision, lists_begun)) = self.revision {
            let observed = self.store.observed();
            if observed.revision < revision && observed.lists_done <= lists_begun {
                return false;
            }
            self.revision = None;
        }
        // From the back, so that those found gone are not asked about again.
        while let Some((key, uid)) = self.gone.last() {
            if self.store.is_live(key, uid) {
                return false;
            }
            self.gone.pop();
        }
        true
    }
}

/// The marks of all keys of one controller.
#[derive(Default)]
pub struct Freshness {
    marks: FxHashMap<Key, Vec<StoreMarks>>,
}

impl Freshness {
    /// Remembers a write made for `key`.
    pub fn remember(&mut self, key: &Key, store: &Arc<dyn AnyStore>, mark: Mark) {
        let marks = self.marks.entry(key.clone()).or_default();
        let same = |have: &StoreMarks| std::ptr::addr_eq(Arc::as_ptr(&have.store), Arc::as_ptr(store));
        let at = marks.iter().position(same).unwrap_or_else(|| {
            marks.push(StoreMarks { store: store.clone(), revision: None, gone: Vec::new() });
            marks.len() - 1
        });
        match mark {
            Mark::Revision { revision, lists_begun } => {
                let newer = marks[at].revision.is_none_or(|(have, _)| revision > have);
                if newer {
                    marks[at].revision = Some((revision, lists_begun));
                }
            }
            Mark::Gone { key, uid } => marks[at].gone.push((key, uid)),
        }
    }

    /// Whether the caches show all of the key's own writes.
    pub fn is_fresh(&mut self, key: &Key) -> bool {
        let Some(marks) = self.marks.get_mut(key) else { return true };
        marks.retain_mut(|mark| !mark.settle());
        if marks.is_empty() {
            self.marks.remove(key);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, revision: u64) -> ConfigMap {
        let meta = serde_json::json!({"name": name, "uid": name, "resourceVersion": revision.to_string()});
        serde_json::from_value(serde_json::json!({ "metadata": meta })).expect("a config map")
    }

    #[test]
    fn a_key_waits_for_its_own_writes() {
        let store = Store::<ConfigMap>::default();
        let any: Arc<dyn AnyStore> = Arc::new(store.clone());
        let (key, other) = (Key::cluster("k"), Key::cluster("other"));
        let mut fresh = Freshness::default();
        fresh.remember(&key, &any, Mark::Revision { revision: 7, lists_begun: 0 });
        assert!(!fresh.is_fresh(&key));
        assert!(fresh.is_fresh(&other), "other keys do not wait");
        store.apply(object("a", 6));
        assert!(!fresh.is_fresh(&key));
        store.apply(object("b", 7));
        assert!(fresh.is_fresh(&key));
    }

    #[test]
    fn a_later_list_settles_even_when_revisions_went_back() {
        let store = Store::<ConfigMap>::default();
        let any: Arc<dyn AnyStore> = Arc::new(store.clone());
        let key = Key::cluster("k");
        let mut fresh = Freshness::default();
        store.begin_list();
        fresh.remember(&key, &any, Mark::Revision { revision: 700, lists_begun: any.observed().lists_begun });
        store.finish_list(vec![object("a", 5)]);
        assert!(!fresh.is_fresh(&key), "that list began before the write");
        store.begin_list();
        store.finish_list(vec![object("a", 5)]);
        assert!(fresh.is_fresh(&key));
    }

    #[test]
    fn a_deleted_object_must_have_left() {
        let store = Store::<ConfigMap>::default();
        let any: Arc<dyn AnyStore> = Arc::new(store.clone());
        store.apply(object("a", 1));
        let key = Key::cluster("k");
        let mut fresh = Freshness::default();
        fresh.remember(&key, &any, Mark::Gone { key: Key::cluster("a"), uid: "a".into() });
        assert!(!fresh.is_fresh(&key));
        store.delete(&object("a", 2));
        assert!(fresh.is_fresh(&key));
    }
}
