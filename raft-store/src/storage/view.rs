//! An immutable view of the applied state at one instant.

use std::sync::Arc;

use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, Snapshot};

use super::{Column, KeyCounts, StateDb};
use crate::error::Error;

/// The state as it stood after one applied batch. Cheap to share; readers never see a half-applied one.
pub struct View {
    // Declared before `db`: dropped first, since it points into it.
    snapshot: Snapshot<'static>,
    db: Arc<StateDb>,
    counts: Arc<KeyCounts>,
    /// The newest revision in this view.
    pub revision: i64,
    /// Reads below this revision are refused.
    pub compact_revision: i64,
    /// The log index this view includes.
    pub applied_index: u64,
}

impl View {
    /// Freezes the state as it is now. The caller is the only writer and says what it contains.
    pub fn freeze(
        db: &Arc<StateDb>,
        counts: Arc<KeyCounts>,
        revision: i64,
        compact_revision: i64,
        applied_index: u64,
    ) -> Arc<Self> {
        let snapshot = db.raw().snapshot();
        // SAFETY: the snapshot borrows the database inside `db`, whose `Arc` this struct keeps and drops
        // after the snapshot; the database does not move inside its `Arc`.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Arc::new(Self { snapshot, db: db.clone(), counts, revision, compact_revision, applied_index })
    }

    /// The database this view belongs to.
    pub fn db(&self) -> &Arc<StateDb> {
        &self.db
    }

    /// How many keys its blocks hold.
    pub fn counts(&self) -> &Arc<KeyCounts> {
        &self.counts
    }

    /// Reads one row.
    pub fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.snapshot.get_cf(self.db.family(column), key).map_err(Error::from)
    }

    /// Whether there is such a row.
    pub fn has(&self, column: Column, key: &[u8]) -> Result<bool, Error> {
        Ok(self.snapshot.get_pinned_cf(self.db.family(column), key)?.is_some())
    }

    /// A cursor over `[start, end)`; an absent end means to the last row. RocksDB reads ahead more and more as it walks on;
    /// told to from the start, it would read a quarter of a megabyte for a single row.
    pub fn cursor(&self, column: Column, start: &[u8], end: Option<&[u8]>) -> Cursor<'_> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut raw = self.snapshot.raw_iterator_cf_opt(self.db.family(column), options);
        raw.seek(start);
        Cursor { raw }
    }
}

/// A forward walk over rows.
pub struct Cursor<'a> {
    raw: DBRawIteratorWithThreadMode<'a, DB>,
}

impl Cursor<'_> {
    /// The row under the cursor, or nothing at the end.
    pub fn row(&self) -> Option<(&[u8], &[u8])> {
        self.raw.item()
    }

    /// Steps to the next row.
    pub fn advance(&mut self) {
        self.raw.next();
    }

    /// Jumps to the first row at or after `key`.
    pub fn seek(&mut self, key: &[u8]) {
        self.raw.seek(key);
    }

    /// Must be asked after the end was reached: tells "no more rows" from "could not read".
    pub fn finish(&self) -> Result<(), Error> {
        self.raw.status().map_err(Error::from)
    }
}
