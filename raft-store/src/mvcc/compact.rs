//! Removing history that nobody may read any more, in small steps.
//!
//! A compaction takes effect at once by raising the compact revision; this file removes the rows behind it.
//! Newest rows are never touched, so reads of the present feel nothing.

use rocksdb::WriteBatch;

use super::{
    history::{Version, corrupt, event_key, events_between},
    keys::{Position, after_versions, split_version_row, version_row},
};
use crate::{
    error::Error,
    storage::{Column, View},
};

/// How far one step got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything at or before this revision has been cleaned.
    pub done: i64,
    /// Nothing is left to do up to the target.
    pub finished: bool,
    /// Events looked at.
    pub seen: usize,
}

/// Plans the removal of what `view` holds from `done` to `target`, looking at
/// most at `events_max` events. The batch may be committed at any later time: it only removes rows that no
/// reader of the compact revision or later can see.
pub fn step(view: &View, done: i64, target: i64, events_max: usize) -> Result<(WriteBatch, Progress), Error> {
    let mut batch = WriteBatch::default();
    let mut seen = 0;
    let mut reached = done;
    let mut finished = true;
    events_between(view, done, target, &mut |position, row| {
        if seen >= events_max && position.revision > reached {
            finished = false;
            return Ok(std::ops::ControlFlow::Break(()));
        }
        seen += 1;
        reached = position.revision;
        let (key, deleted) = event_key(row).ok_or_else(|| corrupt("event", row))?;
        remove_older(view, &mut batch, key, position.revision)?;
        // A deletion needs no memory of itself, except at the compact revision, where a watcher may start.
        if deleted && position.revision < target {
            remove(view, &mut batch, key, position);
        }
        Ok(std::ops::ControlFlow::Continue(()))
    })?;
    let done = if finished { target } else { reached };
    Ok((batch, Progress { done, finished, seen }))
}

fn remove(view: &View, batch: &mut WriteBatch, key: &[u8], position: Position) {
    batch.delete_cf(view.db().family(Column::Events), position.encode());
    batch.delete_cf(view.db().family(Column::Versions), version_row(key, position.revision));
}

/// Removes the versions of `key` before `revision`; usually there is one at most.
fn remove_older(view: &View, batch: &mut WriteBatch, key: &[u8], revision: i64) -> Result<(), Error> {
    let mut cursor =
        view.cursor(Column::Versions, &version_row(key, revision - 1), Some(&after_versions(key)));
    while let Some((row, value)) = cursor.row() {
        if let Some((_, older)) = split_version_row(row) {
            let sub = Version::decode(value)?.sub;
            remove(view, batch, key, Position { revision: older, sub });
        }
        cursor.advance();
    }
    cursor.finish()
}
