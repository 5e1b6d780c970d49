//! All caches of one process: one per kind, made when the first controller asks for it.

use std::any::TypeId;
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::gvr::Gvr;
use super::informer::Informer;
use super::store::{AnyStore, Object, Store};

/// A cache and what starts its informer.
pub struct Entry {
    /// The kind.
    pub gvr: Gvr,
    /// The cache.
    pub store: Arc<dyn AnyStore>,
    /// Runs the watch that fills the cache.
    pub informer: Arc<dyn Informer>,
}

/// The registry of caches; clones share it.
#[derive(Clone, Default)]
pub struct Stores(Arc<RwLock<FxHashMap<TypeId, Arc<Entry>>>>);

impl Stores {
    /// The cache of a kind, made on first use.
    pub fn of<K: Object>(&self) -> Store<K> {
        let mut entries = self.0.write();
        let entry = entries.entry(TypeId::of::<K>()).or_insert_with(|| {
            let store = Store::<K>::default();
            let informer = Arc::new(super::informer::KindInformer(store.clone()));
            Arc::new(Entry { gvr: Gvr::of::<K>(), store: Arc::new(store), informer })
        });
        // The entry of a type id is made two lines above, with a store of that very type.
        entry.store.as_any().downcast_ref::<Store<K>>().cloned().unwrap_or_default()
    }

    /// All entries there are now.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.0.read().values().cloned().collect()
    }

    /// The cache of a resource, if some controller has asked for its kind.
    pub fn find(&self, gvr: &Gvr) -> Option<Arc<dyn AnyStore>> {
        let entries = self.0.read();
        let same = |entry: &&Arc<Entry>| entry.gvr.group == gvr.group && entry.gvr.plural == gvr.plural;
        entries.values().find(same).map(|entry| entry.store.clone())
    }
}
