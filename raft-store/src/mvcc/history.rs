//! Reading the past: a key as of a revision, and events in revision order.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::{Event, KeyValue, event::EventType};

use super::{
    keys::{KeyRange, Position, after_versions, split_version_row, version_prefix, version_row},
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

fn corrupt(what: &str, row: &[u8]) -> Error {
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

/// The store as of a past revision. Two seeks a key, however long its history.
pub struct Past<'a> {
    view: &'a View,
    at: i64,
}

impl<'a> Past<'a> {
    /// `revision` must lie between the compacted and the newest revision.
    pub fn new(view: &'a View, revision: i64) -> Self {
        Self { view, at: revision }
    }
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

    fn at(&self, revision: i64) -> Result<Box<dyn Source + '_>, Error> {
        Ok(Box::new(Past::new(self.view, revision)))
    }
}
