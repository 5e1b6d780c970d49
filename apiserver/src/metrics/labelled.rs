//! Metric handles by labels, found without building label lists for every request.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHasher};

/// Combinations kept; beyond, handles are made anew each time. Resources times verbs times codes stay far below.
const ENTRIES_MAX: usize = 20_000;

type Entries<T> = FxHashMap<u64, (Box<[Box<str>]>, Arc<T>)>;

/// Handles made once for each combination of labels.
pub struct Labelled<T> {
    entries: RwLock<Entries<T>>,
}

impl<T> Default for Labelled<T> {
    fn default() -> Self {
        Self { entries: RwLock::default() }
    }
}

impl<T> Labelled<T> {
    /// The handle of these labels, made by the first who asks.
    pub fn get(&self, labels: &[&str], make: impl FnOnce() -> T) -> Arc<T> {
        let mut hasher = FxHasher::default();
        labels.hash(&mut hasher);
        let hash = hasher.finish();
        let same = |known: &[Box<str>]| known.iter().map(AsRef::as_ref).eq(labels.iter().copied());
        if let Some((_, handle)) = self.entries.read().get(&hash).filter(|(known, _)| same(known)) {
            return handle.clone();
        }
        let made = Arc::new(make());
        let mut entries = self.entries.write();
        if entries.len() < ENTRIES_MAX {
            let owned = labels.iter().map(|label| Box::from(*label)).collect();
            entries.entry(hash).or_insert_with(|| (owned, made.clone()));
        }
        made
    }

    /// Forgets all handles; they are made again when asked for.
    pub fn clear(&self) {
        *self.entries.write() = Entries::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_handle_for_the_same_labels() {
        let handles: Labelled<&str> = Labelled::default();
        assert_eq!(*handles.get(&["a", "b"], || "first"), "first");
        assert_eq!(*handles.get(&["a", "b"], || "second"), "first");
        assert_eq!(*handles.get(&["ab", ""], || "third"), "third");
    }
}
