//! Reading the past: a key as of a revision, and events in revision order.

use std::{collections::HashMap, ops::ControlFlow};

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::{Event, KeyValue, event::EventType};

use super::{
    keys::{End, KeyRange, Position, after_versions, split_version_row, version_prefix, version_row},
    overlay::{Laid, Overlaid, Rows},
    source::{Row, Source, Visitor},
};
use crate::{
    error::Error,
    storage::{Column, View},
};

/// Value of a `Versions` row: the sub-revision, and whether the key ended there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Place inside the transaction.
    pub sub: u32,
    /// The key was deleted at this revision.
    pub tombstone: bool,
}

impl Version {
    /// Five bytes: sub-revision, then 1 for a deletion.
    pub fn encode(self) -> [u8; 5] {
        let mut row = [0; 5];
        row[..4].copy_from_slice(&self.sub.to_be_bytes());
        row[4] = u8::from(self.tombstone);
        row
    }

    /// The inverse of `encode`.
    pub fn decode(row: &[u8]) -> Result<Self, Error> {
        let sub = row.get(..4).and_then(|sub| sub.try_into().ok()).map(u32::from_be_bytes);
        match (sub, row.get(4)) {
            (Some(sub), Some(flag)) => Ok(Self { sub, tombstone: *flag == 1 }),
            _ => Err(corrupt("version", row)),
        }
    }
}

/// A row that is not what it should be.
pub(super) fn corrupt(what: &str, row: &[u8]) -> Error {
    Error::new(tonic::Code::DataLoss, format!("etcdserver: corrupt {what} row {}", hex::encode(row)))
}

/// The newest version of `key` at or before `revision`, deletions included.
pub fn version_at(view: &View, key: &[u8], revision: i64) -> Result<Option<(Position, Version)>, Error> {
    let cursor = view.cursor(Column::Versions, &version_row(key, revision), Some(&after_versions(key)));
    let Some((row, value)) = cursor.row() else {
        cursor.finish()?;
        return Ok(None);
    };
    let (_, revision) = split_version_row(row).ok_or_else(|| corrupt("version", row))?;
    let version = Version::decode(value)?;
    Ok(Some((Position { revision, sub: version.sub }, version)))
}

/// `key` as it stood at `revision`; nothing when it did not exist then.
pub fn key_at(view: &View, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Error> {
    match version_at(view, key, revision)? {
        Some((position, version)) if !version.tombstone => Ok(event_at(view, position)?.kv),
        _ => Ok(None),
    }
}

/// The event at a position, which must exist.
pub fn event_at(view: &View, position: Position) -> Result<Event, Error> {
    let row = view.get(Column::Events, &position.encode())?;
    let row = row.ok_or_else(|| {
        Error::new(tonic::Code::DataLoss, format!("etcdserver: the event at {position:?} is missing"))
    })?;
    decode_event(&row)
}

/// Decodes an `Events` row.
pub fn decode_event(row: &[u8]) -> Result<Event, Error> {
    Event::decode(Bytes::copy_from_slice(row)).map_err(|_| corrupt("event", row))
}

/// Key of an `Events` row and whether it is a deletion, without decoding the value.
pub fn event_key(row: &[u8]) -> Option<(&[u8], bool)> {
    const TYPE: u8 = 1 << 3;
    const KV: u8 = 2 << 3 | 2;
    const KEY: u8 = 1 << 3 | 2;
    let (deleted, rest) = match row {
        [TYPE, kind, rest @ ..] => (*kind == EventType::Delete as u8, rest),
        rest => (false, rest),
    };
    let mut kv = rest.strip_prefix(&[KV])?;
    prost::encoding::decode_varint(&mut kv).ok()?;
    // A key is never empty, and it is the first field.
    let mut key = kv.strip_prefix(&[KEY])?;
    let length = usize::try_from(prost::encoding::decode_varint(&mut key).ok()?).ok()?;
    Some((key.get(..length)?, deleted))
}

/// Called with each event's position and row; may stop the walk.
pub type VisitEvent<'v> = dyn FnMut(Position, &[u8]) -> Result<ControlFlow<()>, Error> + 'v;

/// Calls `visit` with every event from `from` (included) to `to` (included), in order.
pub fn events_between(view: &View, from: i64, to: i64, visit: &mut VisitEvent<'_>) -> Result<(), Error> {
    let start = Position { revision: from, sub: 0 }.encode();
    let end = Position { revision: to.saturating_add(1), sub: 0 }.encode();
    let mut cursor = view.cursor(Column::Events, &start, Some(&end));
    while let Some((row, value)) = cursor.row() {
        let position = Position::decode(row).ok_or_else(|| corrupt("event", row))?;
        if visit(position, value)?.is_break() {
            return Ok(());
        }
        cursor.advance();
    }
    cursor.finish()
}

/// Whether an event is a deletion.
pub fn is_delete(event: &Event) -> bool {
    event.r#type == EventType::Delete as i32
}

/// Changes back to which the past is read as the present with those changes undone, however few keys are wanted.
const NEAR_CHANGES_MIN: i64 = 1_000;

/// The store as of a revision between the compacted and the newest one, for reading a range.
///
/// Where fewer changes lie in between than keys in the range, the newest rows are read and what has changed since
/// is looked up: a list read page by page at one revision costs what its pages hold. Otherwise every key's history
/// is asked.
pub fn past<'a>(view: &'a View, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + 'a>, Error> {
    if range.end != End::Point {
        let changes_max = view.count(range)?.max(NEAR_CHANGES_MIN);
        if view.revision - revision <= changes_max
            && let Some(rows) = undone(view, revision, range, changes_max)?
        {
            let (revision, compact_revision) = (view.revision, view.compact_revision);
            return Ok(Box::new(Overlaid { view, rows, revision, compact_revision }));
        }
    }
    Ok(Box::new(Past { view, at: revision }))
}

/// The keys of a range that changed after `revision`, as they stood then; nothing when there were more than
/// `changes_max` changes of any keys.
fn undone(view: &View, revision: i64, range: &KeyRange, changes_max: i64) -> Result<Option<Rows>, Error> {
    let mut changed: HashMap<Bytes, bool> = HashMap::new();
    let mut changes = 0;
    events_between(view, revision + 1, view.revision, &mut |_, row| {
        changes += 1;
        let (key, deleted) = event_key(row).ok_or_else(|| corrupt("event", row))?;
        if range.contains(key) {
            changed.insert(Bytes::copy_from_slice(key), !deleted);
        }
        Ok(if changes > changes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if changes > changes_max {
        return Ok(None);
    }
    let mut rows = Rows::new();
    for (key, in_view) in changed {
        let kv = key_at(view, &key, revision)?;
        rows.insert(key, Laid { kv, in_view });
    }
    Ok(Some(rows))
}

/// The store as of a past revision. Two seeks a key, however long its history.
pub(super) struct Past<'a> {
    /// What its rows and history are read from.
    pub view: &'a View,
    /// The revision.
    pub at: i64,
}

impl Source for Past<'_> {
    fn revision(&self) -> i64 {
        self.view.revision
    }

    fn compact_revision(&self) -> i64 {
        self.view.compact_revision
    }

    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Error> {
        key_at(self.view, key, self.at)
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visitor<'_>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let end = range.upper_bound().map(|end| version_prefix(&end));
        let mut cursor = self.view.cursor(Column::Versions, &version_prefix(&range.start), end.as_deref());
        while let Some((row, value)) = cursor.row() {
            let (key, revision) = split_version_row(row).ok_or_else(|| corrupt("version", row))?;
            if revision > self.at {
                // Newer than asked for: jump to the version that counts, which may be another key's.
                cursor.seek(&version_row(&key, self.at));
                continue;
            }
            let version = Version::decode(value)?;
            if !version.tombstone {
                let event = event_at(self.view, Position { revision, sub: version.sub })?;
                let kv = event.kv.ok_or_else(|| corrupt("event", row))?;
                if visit(Row::Decoded(&kv))?.is_break() {
                    return Ok(());
                }
            }
            cursor.seek(&after_versions(&key));
        }
        cursor.finish()
    }

    fn count(&self, range: &KeyRange) -> Result<i64, Error> {
        let mut count = 0;
        self.scan(range, &mut |_| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    fn at(&self, revision: i64, range: &KeyRange) -> Result<Box<dyn Source + '_>, Error> {
        past(self.view, revision, range)
    }
}
