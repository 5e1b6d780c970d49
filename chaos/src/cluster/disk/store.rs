//! What is on a failing disk: files and folders, and what of them was synced. Pure; knows no kernel.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, SystemTime};

use super::DiskMood;

/// What the file system claims to be; runs write a few tens of megabytes.
pub const SIZE_BYTES: u64 = 4 << 30;
pub const BLOCK_BYTES: u32 = 4096;
/// The number of the folder everything is in.
pub const ROOT: u64 = 1;

/// An error as the kernel numbers it.
pub type Errno = i32;
pub const ENOSYS: Errno = libc::ENOSYS;

/// What is to be known of a file or folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub node: u64,
    pub size: u64,
    pub mode: u32,
    pub links: u32,
    pub is_folder: bool,
    /// Since 1970.
    pub modified: Duration,
}

/// A file or a folder.
#[derive(Default)]
pub struct Node {
    pub content: Vec<u8>,
    /// Some: a folder.
    pub entries: Option<BTreeMap<OsString, u64>>,
    pub mode: u32,
    links: u32,
    pub opened: u32,
    modified: Option<SystemTime>,
    /// What a power loss restores, newest first to last: where, what stood there, and the length then.
    undo: Vec<(usize, Vec<u8>, usize)>,
}

impl Node {
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let before = self.content.len();
        let end = offset + data.len();
        let old = self.content.get(offset..end.min(before)).unwrap_or_default().to_vec();
        self.undo.push((offset, old, before));
        if end > before {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(data);
        self.modified = Some(SystemTime::now());
    }

    pub fn resize(&mut self, length: usize) {
        let before = self.content.len();
        let old = self.content.get(length..).unwrap_or_default().to_vec();
        self.undo.push((length.min(before), old, before));
        self.content.resize(length, 0);
        self.modified = Some(SystemTime::now());
    }

    pub fn sync(&mut self) {
        self.undo.clear();
    }

    pub fn drop_unsynced(&mut self) -> u64 {
        let mut dropped = 0;
        for (offset, old, length) in std::mem::take(&mut self.undo).into_iter().rev() {
            dropped += old.len().max(self.content.len().saturating_sub(length)) as u64;
            self.content.resize(length, 0);
            // A write behind the end has nothing to restore, and may begin behind the restored end.
            if let Some(place) = self.content.get_mut(offset..offset + old.len()) {
                place.copy_from_slice(&old);
            }
        }
        dropped
    }
}

pub struct Store {
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    pub mood: DiskMood,
}

pub type Answer<T> = std::result::Result<T, Errno>;

impl Store {
    pub fn new() -> Self {
        let root = Node { entries: Some(BTreeMap::new()), mode: 0o755, links: 2, ..Node::default() };
        Store { nodes: BTreeMap::from([(ROOT, root)]), next: 2, mood: DiskMood::Well }
    }

    pub fn node(&mut self, id: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&id).ok_or(libc::ENOENT)
    }

    pub fn folder(&mut self, id: u64) -> Answer<&mut BTreeMap<OsString, u64>> {
        self.node(id)?.entries.as_mut().ok_or(libc::ENOTDIR)
    }

    pub fn child(&mut self, parent: u64, name: &OsStr) -> Answer<u64> {
        self.folder(parent)?.get(name).copied().ok_or(libc::ENOENT)
    }

    /// Whether something may be written now.
    pub fn writable(&self) -> Answer<()> {
        match self.mood {
            DiskMood::Well => Ok(()),
            DiskMood::Full => Err(libc::ENOSPC),
            DiskMood::Failing => Err(libc::EIO),
        }
    }

    pub fn make(&mut self, parent: u64, name: &OsStr, mode: u32, is_folder: bool) -> Answer<u64> {
        self.writable()?;
        if self.folder(parent)?.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        let entries = is_folder.then(BTreeMap::new);
        let node = Node { entries, mode: mode & 0o7777, links: 1, ..Node::default() };
        self.nodes.insert(id, node);
        self.folder(parent)?.insert(name.to_owned(), id);
        Ok(id)
    }

    pub fn remove(&mut self, parent: u64, name: &OsStr) -> Answer<()> {
        let id = self.child(parent, name)?;
        if self
            .nodes
            .get(&id)
            .and_then(|node| node.entries.as_ref())
            .is_some_and(|entries| !entries.is_empty())
        {
            return Err(libc::ENOTEMPTY);
        }
        self.folder(parent)?.remove(name);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.links = node.links.saturating_sub(1);
        }
        self.forget_if_gone(id);
        Ok(())
    }

    pub fn forget_if_gone(&mut self, id: u64) {
        if self.nodes.get(&id).is_some_and(|node| node.links == 0 && node.opened == 0) {
            self.nodes.remove(&id);
        }
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Answer<()> {
        let id = self.child(from.0, from.1)?;
        if self.folder(to.0)?.get(to.1).is_some_and(|other| *other != id) {
            self.remove(to.0, to.1)?;
        }
        self.folder(from.0)?.remove(from.1);
        self.folder(to.0)?.insert(to.1.to_owned(), id);
        Ok(())
    }

    pub fn link(&mut self, id: u64, parent: u64, name: &OsStr) -> Answer<()> {
        self.writable()?;
        self.node(id)?.links += 1;
        self.folder(parent)?.insert(name.to_owned(), id);
        Ok(())
    }

    pub fn attributes(&self, node: u64) -> Answer<Attributes> {
        let found = self.nodes.get(&node).ok_or(libc::ENOENT)?;
        let modified = found.modified.unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Attributes {
            node,
            size: found.content.len() as u64,
            mode: found.mode,
            links: found.links,
            is_folder: found.entries.is_some(),
            modified: modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        })
    }

    pub fn free_bytes(&self) -> u64 {
        let used: u64 = self.nodes.values().map(|node| node.content.len() as u64).sum();
        if self.mood == DiskMood::Full { 0 } else { SIZE_BYTES.saturating_sub(used) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_loss_undoes_what_was_not_synced() {
        let mut node = Node::default();
        node.write(0, b"abcdef");
        node.sync();
        node.write(2, b"XY");
        node.write(5, b"longer");
        node.resize(3);
        node.resize(20);
        node.write(40, b"beyond");
        assert!(node.drop_unsynced() > 0);
        assert_eq!(node.content, b"abcdef");
        assert_eq!(node.drop_unsynced(), 0);
        node.write(6, b"!");
        node.sync();
        node.drop_unsynced();
        assert_eq!(node.content, b"abcdef!");
    }

    #[test]
    fn names_are_as_on_any_file_system() {
        let mut store = Store::new();
        let root = ROOT;
        let name = OsStr::new;
        let folder = store.make(root, name("d"), 0o755, true).expect("made");
        let file = store.make(folder, name("f"), 0o644, false).expect("made");
        assert!(store.make(folder, name("f"), 0o644, false).is_err(), "twice");
        assert!(store.remove(root, name("d")).is_err(), "not empty");
        store.link(file, root, name("g")).expect("linked");
        store.rename((folder, name("f")), (root, name("h"))).expect("renamed");
        assert_eq!(store.child(root, name("h")).expect("there"), file);
        store.remove(root, name("h")).expect("removed");
        assert!(store.attributes(file).is_ok(), "linked still");
        store.remove(root, name("g")).expect("removed");
        assert!(store.attributes(file).is_err(), "gone");
        store.mood = DiskMood::Full;
        assert!(store.make(root, name("x"), 0o644, false).is_err());
        assert_eq!(store.free_bytes(), 0);
    }
}
