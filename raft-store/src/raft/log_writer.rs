//! The thread that puts the log on disk: whatever has queued up while one sync ran goes with the next.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::{log_cache::LogCache, reach::Reach, types::TypeConfig};
use crate::metrics::DISK;

/// A write waiting for the disk, done strictly in order.
pub enum LogWrite {
    /// Entries by index; `last` is the last of them.
    Append {
        /// Key and value rows.
        rows: Vec<(u64, Bytes)>,
        /// Told when the rows are safe.
        flushed: IOFlushed<TypeConfig>,
    },
    /// A small record; the sender hears when it is safe.
    Record {
        /// The record's name.
        key: &'static [u8],
        /// The record.
        value: Bytes,
        /// Told when it is.
        done: tokio::sync::oneshot::Sender<io::Result<()>>,
    },
    /// Removes entries from `from` to `to`, both included, with a record that goes with it.
    Remove {
        /// First index.
        from: u64,
        /// Last index.
        to: u64,
        /// A record that changes together with it; without one it is the log's tail that is taken back.
        record: Option<(&'static [u8], Bytes)>,
        /// Told when it is done.
        done: tokio::sync::oneshot::Sender<io::Result<()>>,
    },
}

/// Writes that one sync takes at most, so that the first of them does not wait for ever.
const BATCH_WRITES_MAX: usize = 1_024;
/// A sync slower than this is a slow disk, and said so in the log.
const SLOW_SYNC: Duration = Duration::from_millis(500);

/// The record of how far the log is committed, as far as it has been written.
pub const COMMITTED: &[u8] = b"committed";

/// A commit position that goes with the next write: it comes with every write, and one of its own for it would wake
/// this thread and write to the disk once more each time.
pub type Unwritten = Arc<Mutex<Option<Bytes>>>;

/// The last index that is on disk for certain. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Flushed(Arc<AtomicU64>);

impl Flushed {
    /// The index.
    pub fn index(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// It is this: more than before, or less where entries were taken back.
    pub fn set(&self, index: u64) {
        self.0.store(index, Ordering::Release);
    }
}

/// The name of the column family of log entries.
pub const ENTRIES: &str = "entries";

/// Runs until every sender is gone. Failures are told to whoever waits; nothing is retried, since after a
/// failed sync nobody knows what the disk holds.
pub fn run(mut writer: LogWriter, writes: &mpsc::Receiver<LogWrite>) {
    while let Ok(first) = writes.recv() {
        let mut group = vec![first];
        while group.len() < BATCH_WRITES_MAX {
            match writes.try_recv() {
                Ok(next) => group.push(next),
                Err(_) => break,
            }
        }
        writer.write(group);
    }
}

/// Writes groups of writes, each with one sync.
pub struct LogWriter {
    db: Arc<DB>,
    cache: Arc<Mutex<LogCache>>,
    committed: Unwritten,
    flushed: Flushed,
    reach: Reach,
    /// The planted bug: batches acknowledged that only memory holds.
    #[cfg(feature = "planted-bugs")]
    held_back: std::collections::VecDeque<(WriteBatch, Option<u64>)>,
}

impl LogWriter {
    /// Writes to `db`, with whatever is `committed` by then, tells `cache` what need not be kept any more, raises
    /// `flushed`, and keeps the note of the log's `reach`.
    pub fn new(
        db: Arc<DB>,
        cache: Arc<Mutex<LogCache>>,
        committed: Unwritten,
        flushed: Flushed,
        reach: Reach,
    ) -> Self {
        Self {
            db,
            cache,
            committed,
            flushed,
            reach,
            #[cfg(feature = "planted-bugs")]
            held_back: Default::default(),
        }
    }

    /// Writes a group and tells everyone who waits for a part of it.
    pub fn write(&mut self, group: Vec<LogWrite>) {
        let ends = ends(&group);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::Bug::AckBeforeSync.is_planted() {
            return self.acknowledge_first(group, ends.last().copied());
        }
        let lowered = ends.iter().min().map_or(Ok(()), |lowest| self.reach.lower(*lowest));
        let result = lowered
            .map_err(|error| format!("the note of the log's reach: {error}"))
            .and_then(|()| write(&self.db, &self.committed, &group));
        if let (Ok(()), Some(&end)) = (&result, ends.last()) {
            self.cache.lock().flushed(end);
            self.flushed.set(end);
            self.reach.raise(end);
        }
        for write in group {
            tell(write, &result);
        }
    }

    #[cfg(feature = "planted-bugs")]
    fn acknowledge_first(&mut self, group: Vec<LogWrite>, last: Option<u64>) {
        let prepared = prepare(&self.db, &self.committed, &group)
            .map(|(batch, _)| self.held_back.push_back((batch, last)));
        for write in group {
            tell(write, &prepared);
        }
        while self.held_back.len() > crate::planted::HELD_BACK_BATCHES {
            let Some((batch, last)) = self.held_back.pop_front() else { return };
            if let Err(error) = commit(&self.db, batch, false, 1) {
                tracing::error!(error, "the log cannot be written");
            }
            if let Some(last) = last {
                self.cache.lock().flushed(last);
            }
        }
    }
}

/// The log's last index after each write that moves it: appended entries, and a tail taken back.
fn ends(group: &[LogWrite]) -> Vec<u64> {
    let end = |write: &LogWrite| match write {
        LogWrite::Append { rows, .. } => rows.last().map(|(index, _)| *index),
        LogWrite::Remove { from, record: None, .. } => Some(from.saturating_sub(1)),
        LogWrite::Remove { .. } | LogWrite::Record { .. } => None,
    };
    group.iter().filter_map(end).collect()
}

fn write(db: &DB, committed: &Unwritten, group: &[LogWrite]) -> Result<(), String> {
    let (batch, sync) = prepare(db, committed, group)?;
    commit(db, batch, sync, group.len())
}

/// The group as one batch, and whether it must be synced.
fn prepare(db: &DB, committed: &Unwritten, group: &[LogWrite]) -> Result<(WriteBatch, bool), String> {
    let entries = db.cf_handle(ENTRIES).ok_or("the log has no entries column")?;
    let mut batch = WriteBatch::default();
    if let Some(committed) = committed.lock().take() {
        batch.put(COMMITTED, committed);
    }
    let mut sync = false;
    for write in group {
        match write {
            LogWrite::Append { rows, .. } => {
                for (index, wire) in rows {
                    batch.put_cf(entries, index.to_be_bytes(), wire);
                }
                sync = true;
            }
            LogWrite::Record { key, value, .. } => {
                batch.put(key, value);
                sync = true;
            }
            LogWrite::Remove { from, to, record, .. } => {
                batch.delete_range_cf(entries, from.to_be_bytes(), to.saturating_add(1).to_be_bytes());
                if let Some((key, value)) = record {
                    batch.put(key, value);
                }
                sync = true;
            }
        }
    }
    Ok((batch, sync))
}

fn commit(db: &DB, batch: WriteBatch, sync: bool, writes: usize) -> Result<(), String> {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    let (started, bytes) = (Instant::now(), batch.size_in_bytes());
    db.write_opt(batch, &options).map_err(|error| error.to_string())?;
    if sync {
        let took = started.elapsed();
        DISK.observe_sync(took, bytes);
        if took > SLOW_SYNC {
            tracing::warn!(took_millis = took.as_millis() as u64, writes, "slow disk: log sync");
        }
    }
    Ok(())
}

fn tell(write: LogWrite, result: &Result<(), String>) {
    let result = || result.clone().map_err(io::Error::other);
    match write {
        LogWrite::Append { flushed, .. } => flushed.io_completed(result()),
        LogWrite::Record { done, .. } | LogWrite::Remove { done, .. } => {
            // The waiter may have been shut down meanwhile.
            let _ = done.send(result());
        }
    }
}
