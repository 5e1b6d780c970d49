//! Disks that fail on demand: a file system in this process's memory, mounted for one member.
//!
//! It knows what was synced, as no real disk tells: when power is lost, every write to a file since its last sync is
//! undone. Names (create, rename, remove, link) are durable at once, as on a journaling file system that keeps their
//! order. It can also be full, or fail writes and syncs. Needs root and `/dev/fuse`; mounted in the harness's own mount
//! namespace, and gone with its process.

mod files;
mod store;
mod wire;

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Error, Result};
use files::Mount;
use store::{Node, Store};

/// How a disk behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskMood {
    #[default]
    Well,
    /// There is no space for anything new.
    Full,
    /// Writes and syncs fail.
    Failing,
}

/// One member's disk. Unmounted when dropped.
pub struct Disk {
    store: Arc<Mutex<Store>>,
    _mount: Mount,
}

impl Disk {
    /// An empty disk at the folder, which is made.
    pub fn mount(at: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Io { path: at.to_owned(), error };
        std::fs::create_dir_all(at).map_err(failed)?;
        let store = Arc::new(Mutex::new(Store::new()));
        let mount = Mount::new(at, store.clone()).map_err(failed)?;
        Ok(Disk { store, _mount: mount })
    }

    pub fn set_mood(&self, mood: DiskMood) {
        self.store.lock().mood = mood;
    }

    /// Undoes what was not synced; returns how many bytes that were. Nobody may have a file open.
    pub fn drop_unsynced(&self) -> u64 {
        self.store.lock().nodes.values_mut().map(Node::drop_unsynced).sum()
    }
}
