//! The checksum members compare: equal at equal revisions on every member, whatever each has cleaned up.

use std::ops::ControlFlow;

use super::{
    history::{decode_event, events_between, is_delete, version_at},
    keys::Position,
};
use crate::{error::Error, storage::View};

/// Checksum of everything readable between the compact revision and `revision`.
pub fn hash_at(view: &View, revision: i64) -> Result<u32, Error> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&view.compact_revision.to_be_bytes());
    events_between(view, 0, revision, &mut |position, row| {
        if position.revision > view.compact_revision || survives_compaction(view, position, row)? {
            hasher.update(&position.encode());
            hasher.update(row);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(hasher.finalize())
}

/// Whether an event at or before the compact revision is still readable: it is its key's newest by then, and
/// no deletion unless it happened exactly at the compact revision.
fn survives_compaction(view: &View, position: Position, row: &[u8]) -> Result<bool, Error> {
    let event = decode_event(row)?;
    if is_delete(&event) && position.revision < view.compact_revision {
        return Ok(false);
    }
    let key = event.kv.map(|kv| kv.key).unwrap_or_default();
    let newest = version_at(view, &key, view.compact_revision)?;
    Ok(newest.is_some_and(|(newest, _)| newest == position))
}
