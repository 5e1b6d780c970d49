//! The cache of one kind: objects by key, the indexes controllers ask for, and the handlers that turn changes into
//! keys. One writer (the kind's informer) and any number of readers.
//!
//! Invariants: an index lists exactly the keys whose object yields that value; handlers run after the change is
//! visible and outside the lock; `observed` never claims a state that is not in the cache yet.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use serde::de::DeserializeOwned;
use smallvec::SmallVec;

use super::key::Key;
use super::trim::trim;

/// What a cached kind must be able to do. Every type of `k8s-openapi` with metadata is one.
pub trait Object:
    Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static
{
}

/// The values under which one object is found in an index.
pub type IndexValues = SmallVec<[Arc<str>; 1]>;
/// Computes an object's values in one index.
pub type Extract<K> = fn(&K) -> IndexValues;

/// Index of every store: the namespace.
pub const BY_NAMESPACE: &str = "namespace";
/// Index of every store: the uid of the controlling owner.
pub const BY_OWNER: &str = "owner";
/// Index of every store: the namespace, of objects that no owner controls.
pub const BY_ORPHANED: &str = "orphaned";

/// One change of one object; an addition has no `old`, a deletion no `new`.
pub struct Change<K> {
    /// The object before.
    pub old: Option<Arc<K>>,
    /// The object after.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The newest state known.
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Both states, old first.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// How far a cache has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// The highest resource version seen since the last list.
    pub revision: u64,
    /// How many lists were begun.
    pub lists_begun: u64,
    /// Of the lists begun, the number of the last one that is in the cache.
    pub lists_done: u64,
}

/// What the runtime needs of a cache without knowing its kind.
pub trait AnyStore: Send + Sync {
    /// How far the cache has come.
    fn observed(&self) -> Observed;
    /// Whether the object with this uid is in the cache and not being deleted.
    fn is_live(&self, key: &Key, uid: &str) -> bool;
    /// Number of objects.
    fn count(&self) -> usize;
    /// The store itself, for the registry.
    fn as_any(&self) -> &(dyn Any + Send + Sync);
    /// The metadata of everything in the cache.
    fn each_meta(&self, visit: &mut dyn FnMut(&ObjectMeta));
    /// Has `handler` called with the old and new metadata of each change.
    fn on_meta(&self, handler: MetaHandler);
}

/// A handler that needs no more than the old and the new metadata.
pub type MetaHandler = Box<dyn Fn(Option<&ObjectMeta>, Option<&ObjectMeta>) + Send + Sync>;

struct Index<K> {
    name: &'static str,
    extract: Extract<K>,
    buckets: FxHashMap<Arc<str>, FxHashSet<Key>>,
}

impl<K> Index<K> {
    fn update(&mut self, key: &Key, old: Option<&K>, new: Option<&K>) {
        let before = old.map(self.extract).unwrap_or_default();
        let after = new.map(self.extract).unwrap_or_default();
        if before == after {
            return;
        }
        for value in before {
            if let Some(bucket) = self.buckets.get_mut(&value) {
                bucket.remove(key);
                if bucket.is_empty() {
                    self.buckets.remove(&value);
                }
            }
        }
        for value in after {
            self.buckets.entry(value).or_default().insert(key.clone());
        }
    }
}

struct State<K> {
    objects: FxHashMap<Key, Arc<K>>,
    indexes: Vec<Index<K>>,
    observed: Observed,
}

struct Inner<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
}

/// The cache of one kind; clones share it.
pub struct Store<K>(Arc<Inner<K>>);

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Object> Default for Store<K> {
    fn default() -> Self {
        let mut state =
            State { objects: FxHashMap::default(), indexes: Vec::new(), observed: Observed::default() };
        let standard: [(_, Extract<K>); 3] =
            [(BY_NAMESPACE, namespace_of), (BY_OWNER, owner_uid_of), (BY_ORPHANED, orphaned_in)];
        for (name, extract) in standard {
            state.indexes.push(Index { name, extract, buckets: FxHashMap::default() });
        }
        Self(Arc::new(Inner { state: RwLock::new(state), handlers: RwLock::default() }))
    }
}

fn namespace_of<K: Object>(object: &K) -> IndexValues {
    object.meta().namespace.iter().map(|ns| Arc::from(ns.as_str())).collect()
}

fn owner_uid_of<K: Object>(object: &K) -> IndexValues {
    let owners = object.meta().owner_references.iter().flatten();
    owners.filter(|owner| owner.controller == Some(true)).map(|owner| Arc::from(owner.uid.as_str())).collect()
}

fn orphaned_in<K: Object>(object: &K) -> IndexValues {
    if owner_uid_of(object).is_empty() { namespace_of(object) } else { IndexValues::new() }
}

fn revision_of<K: Object>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or(0)
}

impl<K: Object> Store<K> {
    /// Adds an index; adding one twice under the same name is the same as once.
    pub fn add_index(&self, name: &'static str, extract: Extract<K>) {
        let mut state = self.0.state.write();
        if state.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, extract, buckets: FxHashMap::default() };
        for (key, object) in &state.objects {
            index.update(key, None, Some(object));
        }
        state.indexes.push(index);
    }

    /// Has `handler` called after each change.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.0.handlers.write().push(Box::new(handler));
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.state.read().objects.get(key).cloned()
    }

    /// The object of a name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&Key::new(namespace, name))
    }

    /// All objects, in no particular order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.0.state.read().objects.values().cloned().collect()
    }

    /// The objects found under `value` in the index `name`, ordered by key.
    pub fn by(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let state = self.0.state.read();
        let Some(index) = state.indexes.iter().find(|index| index.name == name) else { return Vec::new() };
        let Some(bucket) = index.buckets.get(value) else { return Vec::new() };
        let mut found: Vec<_> = bucket.iter().filter_map(|key| state.objects.get_key_value(key)).collect();
        found.sort_unstable_by(|a, b| a.0.cmp(b.0));
        found.into_iter().map(|(_, object)| object.clone()).collect()
    }

    /// The objects of a namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by(BY_NAMESPACE, namespace)
    }

    /// The objects whose controlling owner has this uid, ordered by key.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by(BY_OWNER, uid)
    }

    /// The objects of a namespace that no owner controls, ordered by name.
    pub fn orphaned_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by(BY_ORPHANED, namespace)
    }

    /// Writer: an object was added or changed.
    pub fn apply(&self, mut object: K) {
        trim(&mut object);
        let key = Key::of(&object);
        let revision = revision_of(&object);
        let new = Arc::new(object);
        let old = self.0.state.write().put(key, Some(new.clone()), revision);
        self.notify(&Change { old, new: Some(new) });
    }

    /// Writer: an object was deleted; `last` is its last state.
    pub fn delete(&self, last: &K) {
        let old = self.0.state.write().put(Key::of(last), None, revision_of(last));
        if old.is_some() {
            self.notify(&Change { old, new: None });
        }
    }

    /// Writer: a list request is about to be sent.
    pub fn begin_list(&self) {
        self.0.state.write().observed.lists_begun += 1;
    }

    /// Writer: the list begun last has this whole content.
    pub fn finish_list(&self, objects: Vec<K>) {
        let mut changes = Vec::new();
        {
            let mut state = self.0.state.write();
            let mut gone: FxHashSet<Key> = state.objects.keys().cloned().collect();
            // A restored store may have gone back in time, so the old high mark means nothing now.
            state.observed.revision = 0;
            for mut object in objects {
                trim(&mut object);
                let (key, revision) = (Key::of(&object), revision_of(&object));
                gone.remove(&key);
                let new = Arc::new(object);
                let old = state.put(key, Some(new.clone()), revision);
                if old.as_ref().is_none_or(|old| old.meta().resource_version != new.meta().resource_version) {
                    changes.push(Change { old, new: Some(new) });
                }
            }
            for key in gone {
                let old = state.put(key, None, 0);
                changes.push(Change { old, new: None });
            }
            state.observed.lists_done = state.observed.lists_begun;
        }
        changes.iter().for_each(|change| self.notify(change));
    }

    fn notify(&self, change: &Change<K>) {
        for handler in self.0.handlers.read().iter() {
            handler(change);
        }
    }
}

impl<K: Object> State<K> {
    fn put(&mut self, key: Key, new: Option<Arc<K>>, revision: u64) -> Option<Arc<K>> {
        let old = self.objects.get(&key).cloned();
        for index in &mut self.indexes {
            index.update(&key, old.as_deref(), new.as_deref());
        }
        match new {
            Some(object) => self.objects.insert(key, object),
            None => self.objects.remove(&key),
        };
        self.observed.revision = self.observed.revision.max(revision);
        old
    }
}

impl<K: Object> AnyStore for Store<K> {
    fn observed(&self) -> Observed {
        self.0.state.read().observed
    }

    fn is_live(&self, key: &Key, uid: &str) -> bool {
        let state = self.0.state.read();
        let Some(object) = state.objects.get(key) else { return false };
        object.meta().uid.as_deref() == Some(uid) && object.meta().deletion_timestamp.is_none()
    }

    fn count(&self) -> usize {
        self.0.state.read().objects.len()
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn each_meta(&self, visit: &mut dyn FnMut(&ObjectMeta)) {
        let objects = self.all();
        objects.iter().for_each(|object| visit(object.meta()));
    }

    fn on_meta(&self, handler: MetaHandler) {
        self.on_change(move |change| {
            handler(change.old.as_ref().map(|old| old.meta()), change.new.as_ref().map(|new| new.meta()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use parking_lot::Mutex;

    fn object(name: &str, revision: u64, owner: &str) -> ConfigMap {
        let owner = serde_json::json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": true});
        let meta = serde_json::json!({"name": name, "namespace": "ns", "resourceVersion": revision.to_string(),
            "uid": format!("uid-{name}"), "ownerReferences": [owner]});
        serde_json::from_value(serde_json::json!({"metadata": meta})).expect("a config map")
    }

    fn names(found: &[Arc<ConfigMap>]) -> Vec<String> {
        found.iter().map(|object| object.metadata.name.clone().unwrap_or_default()).collect()
    }

    #[test]
    fn indexes_follow_changes() {
        let store = Store::default();
        store.apply(object("b", 1, "u1"));
        store.apply(object("a", 2, "u1"));
        assert_eq!(names(&store.owned_by("u1")), ["a", "b"]);
        store.apply(object("a", 3, "u2"));
        assert_eq!(names(&store.owned_by("u1")), ["b"]);
        assert_eq!(names(&store.in_namespace("ns")), ["a", "b"]);
        store.delete(&object("b", 4, "u1"));
        assert!(store.owned_by("u1").is_empty());
        assert_eq!(store.observed().revision, 4);
    }

    #[test]
    fn a_list_replaces_everything_and_reports_the_differences() {
        let store = Store::default();
        store.apply(object("stays", 1, "u"));
        store.apply(object("changes", 2, "u"));
        store.apply(object("goes", 9, "u"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        store.on_change(move |change: &Change<ConfigMap>| {
            let name = change.latest().and_then(|object| object.metadata.name.clone()).unwrap_or_default();
            log.lock().push((name, change.old.is_some(), change.new.is_some()));
        });
        store.begin_list();
        assert_eq!(store.observed().lists_done, 0);
        store.finish_list(vec![object("stays", 1, "u"), object("changes", 5, "u"), object("comes", 6, "u")]);
        let mut seen = seen.lock().clone();
        seen.sort();
        let expected = [("changes", true, true), ("comes", false, true), ("goes", true, false)];
        assert_eq!(seen, expected.map(|(name, old, new)| (name.to_string(), old, new)));
        assert_eq!(store.observed(), Observed { revision: 6, lists_begun: 1, lists_done: 1 });
    }
}
