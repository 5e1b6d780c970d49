//! The newest log entries in memory, so that applying and replicating rarely read the disk.

use std::collections::VecDeque;

use bytes::Bytes;
use openraft::entry::RaftEntry;

use super::types::Entry;

/// Bytes of entries kept once they are on disk; those not yet on disk are always kept.
const CACHED_BYTES_MAX: usize = 4 << 20;

/// A contiguous tail of the log. Entries at or before `flushed` may be dropped, oldest first.
#[derive(Default)]
pub struct LogCache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    flushed: u64,
}

impl LogCache {
    /// Adds the entry after the last one.
    pub fn push(&mut self, entry: Entry, wire: &Bytes) {
        if let Some((last, _)) = self.entries.back() {
            assert_eq!(last.index() + 1, entry.index(), "the log has no holes");
        }
        self.bytes += wire.len();
        self.entries.push_back((entry, wire.len()));
    }

    /// Everything up to `index` is on disk, and nothing more for certain; the oldest may go.
    pub fn flushed(&mut self, index: u64) {
        self.flushed = index;
        while self.bytes > CACHED_BYTES_MAX {
            match self.entries.front() {
                Some((first, _)) if first.index() <= self.flushed => {}
                _ => break,
            }
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes -= size;
            }
        }
    }

    /// Removes everything after `last`.
    pub fn truncate_after(&mut self, last: Option<u64>) {
        while self.entries.back().is_some_and(|(entry, _)| last.is_none_or(|last| entry.index() > last)) {
            if let Some((_, size)) = self.entries.pop_back() {
                self.bytes -= size;
            }
        }
        self.flushed = self.flushed.min(last.unwrap_or(0));
    }

    /// Removes everything up to `index`.
    pub fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.index() <= index) {
            if let Some((_, size)) = self.entries.pop_front() {
                self.bytes -= size;
            }
        }
    }

    /// The first cached index, if any.
    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.index())
    }

    /// Entries from `from` to `to` (excluded) that are cached; `from` must not be before the first.
    pub fn range(&self, from: u64, to: u64) -> Vec<Entry> {
        let Some(first) = self.first_index() else { return Vec::new() };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let take = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).take(take).map(|(entry, _)| entry.clone()).collect()
    }
}
