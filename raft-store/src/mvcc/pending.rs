//! Changes on top of a view that are not yet committed: what the apply loop reads and writes.
//!
//! Invariants: a transaction takes one revision if it changes anything and none otherwise; positions inside
//! it count from 0; every change writes the newest row, its history row and its event together.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::mvccpb::{Event, KeyValue, event::EventType};
use rocksdb::WriteBatch;

use super::{
    history::Version,
    keys::{End, KeyRange, Position, lease_key_row, version_row},
    overlay::{self, Laid, Overlaid, Rows},
    source::{Source, Visitor},
};
use crate::{
    error::Error,
    storage::{Column, KeyCounts, View},
};

/// One change as watchers will see it.
#[derive(Clone, Debug)]
pub struct Change {
    /// What happened; `prev_kv` holds the value before, where there was one.
    pub event: Event,
}

/// What a commit consists of.
pub struct Parts {
    /// The rows to write.
    pub batch: WriteBatch,
    /// The changes, for the watchers.
    pub changes: Vec<Change>,
    /// The key counts that go with the rows.
    pub counts: Arc<KeyCounts>,
}

/// A view plus uncommitted changes.
pub struct Pending {
    view: Arc<View>,
    batch: WriteBatch,
    latest: Rows,
    lease_keys: BTreeMap<(i64, Bytes), bool>,
    changes: Vec<Change>,
    /// Copied from the view when the first key comes or goes.
    counts: Option<KeyCounts>,
    revision: i64,
    compact_revision: i64,
    sub: u32,
}

impl Pending {
    /// Nothing changed yet.
    pub fn new(view: Arc<View>) -> Self {
        let (revision, compact_revision) = (view.revision, view.compact_revision);
        Self {
            view,
            batch: WriteBatch::default(),
            latest: Rows::new(),
            lease_keys: BTreeMap::new(),
            changes: Vec::new(),
            counts: None,
            revision,
            compact_revision,
            sub: 0,
        }
    }

    /// The revision after the last finished transaction.
    pub fn finished_revision(&self) -> i64 {
        self.revision
    }

    /// Reads below `revision` are refused from now on.
    pub fn compact_to(&mut self, revision: i64) {
        self.compact_revision = revision;
    }

    /// Bytes waiting to be committed.
    pub fn size_bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    /// Writes a row outside the key space, such as a lease or the applied index.
    pub fn put_row(&mut self, column: Column, key: &[u8], value: &[u8]) {
        let view = self.view.clone();
        self.batch.put_cf(view.db().family(column), key, value);
    }

    /// Removes a row outside the key space.
    pub fn delete_row(&mut self, column: Column, key: &[u8]) {
        let view = self.view.clone();
        self.batch.delete_cf(view.db().family(column), key);
    }

    /// Ends the running transaction and returns the newest revision.
    pub fn finish_transaction(&mut self) -> i64 {
        if self.sub > 0 {
            self.revision += 1;
            self.sub = 0;
        }
        self.revision
    }

    /// Hands over what is to be committed.
    pub fn into_parts(self) -> Parts {
        assert_eq!(self.sub, 0, "a transaction is never committed half");
        let counts = self.counts.map_or_else(|| self.view.counts().clone(), Arc::new);
        Parts { batch: self.batch, changes: self.changes, counts }
    }

    /// Lays a key over the view; `before` is what was there until now.
    fn lay(&mut self, key: Bytes, before: bool, kv: Option<KeyValue>) {
        let exists = kv.is_some();
        match self.latest.get_mut(&key) {
            Some(laid) => laid.kv = kv,
            None => {
                self.latest.insert(key.clone(), Laid { kv, in_view: before });
            }
        }
        if before != exists {
            let counts = self.counts.get_or_insert_with(|| self.view.counts().as_ref().clone());
            match exists {
                true => counts.created(self.view.db(), &mut self.batch, &key),
                false => counts.deleted(self.view.db(), &mut self.batch, &key),
            }
        }
    }

    fn next_position(&mut self) -> Position {
        let position = Position { revision: self.revision + 1, sub: self.sub };
        self.sub += 1;
        position
    }

    /// Sets a key whose present state the caller has just read.
    pub fn put_over(&mut self, before: Option<KeyValue>, key: Bytes, value: Bytes, lease: i64) {
        let position = self.next_position();
        let kv = KeyValue {
            create_revision: before.as_ref().map_or(position.revision, |kv| kv.create_revision),
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            mod_revision: position.revision,
            key,
            value,
            lease,
        };
        let row = kv.encode_to_vec();
        let view = self.view.clone();
        let db = view.db();
        self.batch.put_cf(db.family(Column::Latest), &kv.key, &row);
        self.batch.put_cf(db.family(Column::Events), position.encode(), put_event_row(&row));
        self.write_version(&kv.key, position, false);
        self.move_lease(&kv.key, before.as_ref().map_or(0, |kv| kv.lease), lease);
        self.lay(kv.key.clone(), before.is_some(), Some(kv.clone()));
        let event = Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: before };
        self.changes.push(Change { event });
    }

    /// Deletes every key of a range; returns what they were.
    pub fn delete_range(&mut self, range: &KeyRange) -> Result<Vec<KeyValue>, Error> {
        let mut before = Vec::new();
        self.scan(range, &mut |row| {
            before.push(row.decode()?);
            Ok(ControlFlow::Continue(()))
        })?;
        for kv in &before {
            self.delete(kv.clone());
        }
        Ok(before)
    }

    fn delete(&mut self, before: KeyValue) {
        let position = self.next_position();
        let gone =
            KeyValue { key: before.key.clone(), mod_revision: position.revision, ..Default::default() };
        let mut event = Event { r#type: EventType::Delete as i32, kv: Some(gone), prev_kv: None };
        let view = self.view.clone();
        let db = view.db();
        self.batch.delete_cf(db.family(Column::Latest), &before.key);
        self.batch.put_cf(db.family(Column::Events), position.encode(), event.encode_to_vec());
        self.write_version(&before.key, position, true);
        self.move_lease(&before.key, before.lease, 0);
        self.lay(before.key.clone(), true, None);
        event.prev_kv = Some(before);
        self.changes.push(Change { event });
    }

    fn write_version(&mut self, key: &[u8], position: Position, tombstone: bool) {
        let version = Version { sub: position.sub, tombstone };
        self.put_row(Column::Versions, &version_row(key, position.revision), &version.encode());
    }

    fn move_lease(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 {
            self.delete_row(Column::LeaseKeys, &lease_key_row(from, key));
            self.lease_keys.insert((from, key.clone()), false);
        }
        if to != 0 {
            self.put_row(Column::LeaseKeys, &lease_key_row(to, key), &[]);
            self.lease_keys.insert((to, key.clone()), true);
        }
    }

    /// The keys tied to a lease, in order.
    pub fn keys_of_lease(&self, lease: i64) -> Result<Vec<Bytes>, Error> {
        let mut keys: BTreeMap<Bytes, bool> =
            keys_of_lease(&self.view, lease)?.into_iter().map(|key| (key, true)).collect();
        let overlay = self.lease_keys.range((lease, Bytes::new())..);
        for ((_, key), tied) in overlay.take_while(|((id, _), _)| *id == lease) {
            keys.insert(key.clone(), *tied);
        }
        Ok(keys.into_iter().filter_map(|(key, tied)| tied.then_some(key)).collect())
    }

    /// Deletes the keys of a lease in one transaction.
    pub fn delete_lease_keys(&mut self, lease: i64) -> Result<(), Error> {
        for key in self.keys_of_lease(lease)? {
            self.delete_range(&KeyRange { start: key, end: End::Point })?;
        }
        Ok(())
    }
}

/// The keys tied to a lease in a view, in order.
pub fn keys_of_lease(view: &View, lease: i64) -> Result<Vec<Bytes>, Error> {
    // Rows sort by the bytes of the id, where negative ones, which a client may choose, come after all others.
    let end = lease.cast_unsigned().checked_add(1).map(u64::to_be_bytes);
    tied_keys(view, &lease.to_be_bytes(), end.as_ref().map(|end| end.as_slice()))
}

/// The keys tied to any lease in a view.
pub fn keys_of_leases(view: &View) -> Result<Vec<Bytes>, Error> {
    tied_keys(view, &[], None)
}

fn tied_keys(view: &View, start: &[u8], end: Option<&[u8]>) -> Result<Vec<Bytes>, Error> {
    let mut cursor = view.cursor(Column::LeaseKeys, start, end);
    let mut keys = Vec::new();
    while let Some((row, _)) = cursor.row() {
        keys.push(Bytes::copy_from_slice(row.get(8..).unwrap_or_default()));
        cursor.advance();
    }
    cursor.finish()?;
    Ok(keys)
}

/// An `Event` of type put around an already encoded `KeyValue`, without encoding it again.
fn put_event_row(kv: &[u8]) -> Vec<u8> {
    /// Field 2 (`kv`), length-delimited; the type, put, is protobuf's default and left out.
    const KV_FIELD: u8 = 0x12;
    let mut row = Vec::with_capacity(kv.len() + 6);
    row.put_u8(KV_FIELD);
    prost::encoding::encode_varint(kv.len() as u64, &mut row);
    row.put_slice(kv);
    row
}

impl Source for Pending {
    fn revision(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        overlay::get(&self.view, &self.latest, key)
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        overlay::scan(&self.view, &self.latest, range, visit)
    }

    fn count(&self, range: &KeyRange) -> Result<i64, Error> {
        overlay::count(&self.view, &self.latest, range)
    }

    fn at(&self, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + '_>, Error> {
        if revision <= self.view.revision {
            return self.view.at(revision, range);
        }
        // Asked for a revision of this very batch: the view plus the changes up to there.
        let mut rows = Rows::new();
        for change in &self.changes {
            let Some(kv) = &change.event.kv else { continue };
            if kv.mod_revision <= revision {
                let deleted = change.event.r#type == EventType::Delete as i32;
                let in_view = self.latest.get(&kv.key).is_some_and(|laid| laid.in_view);
                rows.insert(kv.key.clone(), Laid { kv: (!deleted).then(|| kv.clone()), in_view });
            }
        }
        let (revision, compact_revision) = (self.revision(), self.compact_revision);
        Ok(Box::new(Overlaid { view: &self.view, rows, revision, compact_revision }))
    }
}
