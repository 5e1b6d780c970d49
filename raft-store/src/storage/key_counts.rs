//! How many keys a range holds, without walking them.
//!
//! The key space is cut into blocks of a few hundred keys, and each block's count stands in a row of its own. A
//! range's count is the sum over the blocks inside it; only the two blocks at its ends are walked. Invariants: the
//! first block starts at the empty key, the counts belong to exactly one view, and a count row is written in the
//! same batch as the keys it counts. Where blocks are cut is no part of the state members compare.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::{Column, StateDb};
use crate::error::Error;

/// Keys of a block after which it is cut: bounds what a count has to walk.
const BLOCK_KEYS_MAX: u32 = 512;
/// Two neighbours that hold fewer keys together become one: bounds the number of blocks after mass deletion.
const BLOCK_KEYS_MIN: u32 = 128;
/// Rows in `Column::Meta`: this, then the first key of the block.
const ROW_PREFIX: &[u8] = b"keys/";
/// The first row key behind all of them.
const ROW_PREFIX_END: &[u8] = b"keys0";

/// The counts of one view. Cheap to copy as long as no block is cut.
#[derive(Clone, Debug)]
pub struct KeyCounts {
    /// Where each block begins, ascending; the first is empty.
    starts: Arc<Vec<Bytes>>,
    counts: Vec<u32>,
}

impl Default for KeyCounts {
    fn default() -> Self {
        Self { starts: Arc::new(vec![Bytes::new()]), counts: vec![0] }
    }
}

fn row_key(start: &[u8]) -> Vec<u8> {
    [ROW_PREFIX, start].concat()
}

impl KeyCounts {
    /// Reads the counts of a database; counts the keys once where there are none, as in a state that was restored
    /// or written before counts were kept.
    pub fn load(db: &StateDb) -> Result<Self, Error> {
        let (mut starts, mut counts) = (Vec::new(), Vec::new());
        for (row, value) in db.rows_between(Column::Meta, ROW_PREFIX, ROW_PREFIX_END)? {
            let count = value.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| damaged(&row))?;
            starts.push(Bytes::copy_from_slice(&row[ROW_PREFIX.len()..]));
            counts.push(count);
        }
        if starts.is_empty() {
            return Self::count_all(db);
        }
        if !starts[0].is_empty() {
            return Err(damaged(&starts[0]));
        }
        Ok(Self { starts: Arc::new(starts), counts })
    }

    fn count_all(db: &StateDb) -> Result<Self, Error> {
        let (mut starts, mut counts) = (vec![Bytes::new()], vec![0_u32]);
        for row in db.rows(Column::Latest) {
            let (key, _) = row?;
            let last = counts.len() - 1;
            if counts[last] >= BLOCK_KEYS_MAX / 2 {
                starts.push(key.into());
                counts.push(1);
            } else {
                counts[last] += 1;
            }
        }
        let mut batch = WriteBatch::default();
        for (start, count) in starts.iter().zip(&counts) {
            batch.put_cf(db.family(Column::Meta), row_key(start), count.to_be_bytes());
        }
        db.commit(batch)?;
        Ok(Self { starts: Arc::new(starts), counts })
    }

    /// How many keys there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    fn block_of(&self, key: &[u8]) -> usize {
        self.starts.partition_point(|start| start.as_ref() <= key).saturating_sub(1)
    }

    /// A key has come into being.
    pub fn created(&mut self, db: &StateDb, batch: &mut WriteBatch, key: &[u8]) {
        let block = self.block_of(key);
        self.counts[block] += 1;
        self.write(db, batch, block);
    }

    /// A key has been deleted.
    pub fn deleted(&mut self, db: &StateDb, batch: &mut WriteBatch, key: &[u8]) {
        let mut block = self.block_of(key);
        self.counts[block] -= 1;
        if block > 0 && self.counts[block] + self.counts[block - 1] < BLOCK_KEYS_MIN {
            let start = Arc::make_mut(&mut self.starts).remove(block);
            batch.delete_cf(db.family(Column::Meta), row_key(&start));
            let moved = self.counts.remove(block);
            block -= 1;
            self.counts[block] += moved;
        }
        self.write(db, batch, block);
    }

    fn write(&self, db: &StateDb, batch: &mut WriteBatch, block: usize) {
        let count = self.counts[block].to_be_bytes();
        batch.put_cf(db.family(Column::Meta), row_key(&self.starts[block]), count);
    }

    /// Whether a block has grown so large that it should be cut.
    pub fn has_large(&self) -> bool {
        self.counts.iter().any(|count| *count > BLOCK_KEYS_MAX)
    }

    /// Cuts blocks that have grown too large. `db` must hold exactly the keys that are counted; the cuts are
    /// committed on their own, since either side of them is right.
    pub fn cut_large(&mut self, db: &StateDb) -> Result<(), Error> {
        let large = |counts: &[u32]| counts.iter().rposition(|count| *count > BLOCK_KEYS_MAX);
        while let Some(block) = large(&self.counts) {
            let piece = BLOCK_KEYS_MAX / 2;
            let pieces = self.counts[block] / piece;
            let mut starts = Vec::new();
            let first = self.starts[block].clone();
            let end = self.starts.get(block + 1).cloned();
            let mut at = 0_u32;
            db.each_key_between(Column::Latest, &first, end.as_deref(), &mut |key| {
                if at > 0 && at.is_multiple_of(piece) && at / piece < pieces {
                    starts.push(Bytes::copy_from_slice(key));
                }
                at += 1;
            })?;
            assert_eq!(at, self.counts[block], "a block's count is the number of its keys");
            let mut counts = vec![piece; starts.len()];
            counts.push(at - piece * u32::try_from(starts.len()).unwrap_or(0));
            self.counts.splice(block..=block, counts);
            let added = starts.len();
            Arc::make_mut(&mut self.starts).splice(block + 1..block + 1, starts);
            let mut batch = WriteBatch::default();
            (block..=block + added).for_each(|block| self.write(db, &mut batch, block));
            db.commit(batch)?;
        }
        Ok(())
    }

    /// What lies between `start` and `end` (no end: to the last key): the number of keys in whole blocks, and the
    /// stretches that must be walked.
    pub fn between(&self, start: &[u8], end: Option<&[u8]>) -> (u64, Vec<(Bytes, Option<Bytes>)>) {
        let (start, end) = (Bytes::copy_from_slice(start), end.map(Bytes::copy_from_slice));
        let first = self.block_of(&start);
        let last = end.as_ref().map_or(self.starts.len(), |end| self.block_of(end));
        if first == last {
            return (0, vec![(start, end)]);
        }
        let mut walks = Vec::new();
        let mut whole = first;
        if self.starts[first] != start {
            walks.push((start, self.starts.get(first + 1).cloned()));
            whole += 1;
        }
        let sum = self.counts[whole.min(last)..last].iter().map(|count| u64::from(*count)).sum();
        if let (Some(end), Some(begin)) = (end, self.starts.get(last))
            && *begin != end
        {
            walks.push((begin.clone(), Some(end)));
        }
        (sum, walks)
    }
}

fn damaged(row: &[u8]) -> Error {
    let row = String::from_utf8_lossy(row).into_owned();
    Error::new(tonic::Code::DataLoss, format!("etcdserver: the key count {row:?} of the state is damaged"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn change(db: &StateDb, counts: &mut KeyCounts, keys: &mut BTreeSet<Vec<u8>>, key: Vec<u8>) {
        let mut batch = WriteBatch::default();
        if keys.remove(&key) {
            batch.delete_cf(db.family(Column::Latest), &key);
            counts.deleted(db, &mut batch, &key);
        } else {
            batch.put_cf(db.family(Column::Latest), &key, b"v");
            counts.created(db, &mut batch, &key);
            keys.insert(key);
        }
        db.commit(batch).unwrap();
        counts.cut_large(db).unwrap();
    }

    fn count(db: &StateDb, counts: &KeyCounts, start: &[u8], end: Option<&[u8]>) -> u64 {
        let (mut sum, walks) = counts.between(start, end);
        for (start, end) in walks {
            db.each_key_between(Column::Latest, &start, end.as_deref(), &mut |_| sum += 1).unwrap();
        }
        sum
    }

    #[test]
    fn agrees_with_a_set_while_keys_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(&dir.path().join("state")).unwrap();
        let mut counts = KeyCounts::load(&db).unwrap();
        let mut keys = BTreeSet::new();
        let mut rng = StdRng::seed_from_u64(11);
        let key = |n: u32| format!("k{n:05}").into_bytes();
        for step in 0..12_000_u32 {
            // Grow first, then shrink, so that blocks are cut and joined again.
            let grows = step < 7_000;
            let candidate = key(rng.random_range(0..9_000));
            if keys.contains(&candidate) != grows {
                change(&db, &mut counts, &mut keys, candidate);
            }
            if step.is_multiple_of(50) {
                let start = key(rng.random_range(0..9_000));
                let end = (rng.random_range(0..4) > 0).then(|| key(rng.random_range(0..9_000)));
                let inside = keys.iter().filter(|key| **key >= start);
                let expected = inside.filter(|key| end.as_ref().is_none_or(|end| *key < end)).count();
                if end.as_ref().is_none_or(|end| *end > start) {
                    assert_eq!(count(&db, &counts, &start, end.as_deref()), expected as u64, "step {step}");
                }
            }
        }
        assert!(counts.counts.len() < 40, "joined again: {} blocks", counts.counts.len());
        let read_again = KeyCounts::load(&db).unwrap();
        assert_eq!(count(&db, &read_again, b"", None), keys.len() as u64);
        assert_eq!(read_again.counts, counts.counts);
    }

    #[test]
    fn a_state_without_counts_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = StateDb::open(&dir.path().join("state")).unwrap();
        let mut batch = WriteBatch::default();
        for n in 0..2_000 {
            batch.put_cf(db.family(Column::Latest), format!("{n:04}"), b"v");
        }
        db.commit(batch).unwrap();
        let counts = KeyCounts::load(&db).unwrap();
        assert_eq!(count(&db, &counts, b"0500", Some(b"1500")), 1_000);
        assert_eq!(KeyCounts::load(&db).unwrap().counts, counts.counts);
    }
}
