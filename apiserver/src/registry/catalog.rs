//! Which resources are served now. Readers take a snapshot; one writer replaces it when definitions change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::kind::{Kind, Storage};

type Versions = BTreeMap<String, BTreeMap<String, Arc<Kind>>>;

/// One consistent set of served kinds.
#[derive(Default)]
pub struct Snapshot {
    /// Group, version, resource.
    groups: BTreeMap<String, Versions>,
    storages: FxHashMap<(String, String), Arc<Storage>>,
    /// Grows with every change.
    pub generation: u64,
}

impl Snapshot {
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.get(version)?.get(resource)
    }

    /// The kind at any served version, storage version first.
    pub fn find_any_version(&self, group: &str, resource: &str) -> Option<&Arc<Kind>> {
        let versions = self.groups.get(group)?;
        let mut kinds = versions.values().filter_map(|r| r.get(resource));
        let first = kinds.clone().next()?;
        Some(kinds.find(|k| k.version_index == 0).unwrap_or(first))
    }

    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.groups.get(group)?.get(version)?.values().find(|k| k.kind == kind)
    }

    pub fn storage(&self, group: &str, resource: &str) -> Option<&Arc<Storage>> {
        // The map is keyed by owned pairs; a scan of the few hundred resources would be slower than two allocations.
        self.storages.get(&(group.to_owned(), resource.to_owned()))
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.groups.get(group).is_some_and(|v| v.contains_key(version))
    }

    /// Every kind, by group, version and resource name.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.groups.values().flat_map(|v| v.values()).flat_map(|r| r.values())
    }

    /// Group names with their versions' kinds.
    pub fn groups(&self) -> impl Iterator<Item = (&String, &Versions)> {
        self.groups.iter()
    }

    fn insert(&mut self, kind: Arc<Kind>) {
        if let Some(storage) = &kind.storage {
            // Events are reached under both groups but live in one place.
            let key = (kind.group.clone(), kind.resource.clone());
            self.storages.insert(key, storage.clone());
        }
        let versions = self.groups.entry(kind.group.clone()).or_default();
        versions.entry(kind.version.clone()).or_default().insert(kind.resource.clone(), kind);
    }
}

/// The current snapshot and its writer.
#[derive(Default)]
pub struct Catalog {
    current: ArcSwap<Snapshot>,
    /// Custom kinds by definition name, the part that changes.
    custom: Mutex<BTreeMap<String, Vec<Arc<Kind>>>>,
    builtin: Mutex<Vec<Arc<Kind>>>,
}

impl Catalog {
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The snapshot, to be held across awaits.
    pub fn snapshot_arc(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub fn set_builtin(&self, kinds: Vec<Arc<Kind>>) {
        *self.builtin.lock() = kinds;
        self.rebuild();
    }

    /// Replaces what one definition serves; nothing when `kinds` is empty.
    pub fn set_custom(&self, definition: &str, kinds: Vec<Arc<Kind>>) {
        if kinds.is_empty() {
            self.custom.lock().remove(definition);
        } else {
            self.custom.lock().insert(definition.to_owned(), kinds);
        }
        self.rebuild();
    }

    /// The storage a definition's kinds share now.
    pub fn custom_storage(&self, definition: &str) -> Option<Arc<Storage>> {
        self.custom.lock().get(definition)?.first()?.storage.clone()
    }

    /// The definitions that something is served of.
    pub fn custom_names(&self) -> Vec<String> {
        self.custom.lock().keys().cloned().collect()
    }

    fn rebuild(&self) {
        // Both locks are held to the end, so that two changes cannot overwrite each other.
        let builtin = self.builtin.lock();
        let custom = self.custom.lock();
        let mut next = Snapshot { generation: self.current.load().generation + 1, ..Snapshot::default() };
        for kind in custom.values().flatten().chain(builtin.iter()) {
            next.insert(kind.clone());
        }
        self.current.store(Arc::new(next));
    }
}
