//! The Raft log on RocksDB: openraft's log storage.
//!
//! A database of its own, apart from the applied state, so that applying never queues behind a disk sync.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{Arc, mpsc},
};

use bytes::Bytes;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use rocksdb::{BlockBasedOptions, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    codec,
    log_cache::LogCache,
    log_writer::{self, COMMITTED, ENTRIES, Flushed, LogWrite, LogWriter, Unwritten},
    reach::Reach,
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::blocking;

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
/// Up to where a snapshot brought the state, however far the log goes.
const SNAPSHOT: &[u8] = b"snapshot";
const FORMAT: &[u8] = b"format";
/// Value of the format record: magic and version.
const FORMAT_VALUE: &[u8] = b"QDLOG\x00\x00\x01";
/// Writes waiting for the disk at once; beyond it the consensus core waits, and with it the clients.
const WRITES_QUEUED_MAX: usize = 4_096;
/// Entries handed out at once to replication and to applying, so that memory stays bounded.
const READ_ENTRIES_MAX: u64 = 1_024;
/// Bytes of them.
const READ_BYTES_MAX: usize = 8 << 20;

/// The log of one member. Clones share everything.
#[derive(Clone)]
pub struct LogStore {
    db: Arc<DB>,
    cache: Arc<Mutex<LogCache>>,
    writes: Arc<Writer>,
    vote: Arc<Mutex<Option<Vote>>>,
    /// Not on disk yet.
    committed: Unwritten,
    flushed: Flushed,
    /// What was noted of its reach when it was opened.
    noted: u64,
}

/// The thread that writes, and the way to it. The last clone of the store waits for it, so that nothing of the
/// database outlives its owner.
struct Writer {
    queue: Option<mpsc::SyncSender<LogWrite>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// In place of the thread where everything runs on one.
    in_place: Option<Mutex<LogWriter>>,
}

impl Writer {
    fn start(writer: LogWriter, held: TaskTrackerToken) -> io::Result<Self> {
        if blocking::is_single_threaded() {
            return Ok(Self { queue: None, thread: None, in_place: Some(Mutex::new(writer)) });
        }
        let (writes, queue) = mpsc::sync_channel(WRITES_QUEUED_MAX);
        let thread = std::thread::Builder::new().name("raft-log".into()).spawn(move || {
            log_writer::run(writer, &queue);
            drop(held);
        })?;
        Ok(Self { queue: Some(writes), thread: Some(thread), in_place: None })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the log writer panicked");
        }
    }
}

impl LogStore {
    /// Opens the log, creating it where there is none, and checks that it is whole. `held` is dropped when its
    /// files are closed, after the last clone has gone.
    pub fn open(path: &Path, held: TaskTrackerToken) -> io::Result<Self> {
        let db = Arc::new(open_db(path)?);
        check_format(&db, path)?;
        let vote = read_record(&db, VOTE)?;
        check_entries(&db, path)?;
        let cache = Arc::new(Mutex::new(LogCache::default()));
        let (committed, flushed) = (Unwritten::default(), Flushed::default());
        let reach = Reach::open(path)?;
        let noted = reach.index();
        let writer = LogWriter::new(db.clone(), cache.clone(), committed.clone(), flushed.clone(), reach);
        let writes = Arc::new(Writer::start(writer, held)?);
        let log = Self { db, cache, writes, vote: Arc::new(Mutex::new(vote)), committed, flushed, noted };
        log.flushed.set(log.reach()?);
        Ok(log)
    }

    /// How far the log is on disk, kept current.
    pub fn flushed(&self) -> Flushed {
        self.flushed.clone()
    }

    /// How far the log on disk goes, counting what a snapshot or a purge has taken the place of.
    pub fn reach(&self) -> io::Result<u64> {
        let last = self.last_on_disk()?.map_or(0, |entry| entry.index());
        Ok(last.max(self.purged()?).max(self.index_in(SNAPSHOT)?))
    }

    /// The last entry that has been removed from the beginning of the log; zero: none.
    pub fn purged(&self) -> io::Result<u64> {
        self.index_in(PURGED)
    }

    fn index_in(&self, record: &[u8]) -> io::Result<u64> {
        Ok(read_record::<LogId>(&self.db, record)?.map_or(0, |log_id| log_id.index()))
    }

    /// Bytes of the log, on disk and on the way there, an estimate: what was removed counts until the files are tidied.
    pub fn size_bytes(&self) -> u64 {
        let entries = self.db.cf_handle(ENTRIES);
        let size = |property: &str| {
            entries.and_then(|entries| self.db.property_int_value_cf(entries, property).ok().flatten())
        };
        let parts = ["rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables"];
        parts.into_iter().filter_map(size).sum()
    }

    /// How far the log went when it was last used, by a note apart from it; behind the truth at worst.
    pub fn noted_reach(&self) -> u64 {
        self.noted
    }

    /// Notes that a snapshot brings the state up to here. To be called before it does: until the log is purged, too, its
    /// entries alone do not explain the state.
    pub async fn note_snapshot(&self, position: &LogId) -> io::Result<()> {
        let value = codec::encode(position)?;
        self.send_and_wait(|done| LogWrite::Record { key: SNAPSHOT, value, done }).await
    }

    fn send(&self, write: LogWrite) -> io::Result<()> {
        if let Some(writer) = &self.writes.in_place {
            writer.lock().write(vec![write]);
            return Ok(());
        }
        // Blocks only when thousands of writes already wait for the disk.
        let stopped = || io::Error::other("the log writer has stopped");
        self.writes.queue.as_ref().ok_or_else(stopped)?.send(write).map_err(|_| stopped())
    }

    async fn send_and_wait(
        &self,
        make: impl FnOnce(tokio::sync::oneshot::Sender<io::Result<()>>) -> LogWrite,
    ) -> io::Result<()> {
        let (done, waiting) = tokio::sync::oneshot::channel();
        self.send(make(done))?;
        waiting.await.map_err(|_| io::Error::other("the log writer has stopped"))?
    }

    fn last_on_disk(&self) -> io::Result<Option<Entry>> {
        let Some(entries) = self.db.cf_handle(ENTRIES) else { return Ok(None) };
        let mut iterator = self.db.raw_iterator_cf(entries);
        iterator.seek_to_last();
        let last =
            iterator.value().map(|wire| codec::decode_entry(Bytes::copy_from_slice(wire))).transpose()?;
        iterator.status().map_err(io::Error::other)?;
        Ok(last)
    }

    fn read_disk(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let Some(entries) = self.db.cf_handle(ENTRIES) else { return Ok(Vec::new()) };
        let mut iterator = self.db.raw_iterator_cf(entries);
        iterator.seek(from.to_be_bytes());
        let mut found = Vec::new();
        while let Some((key, wire)) = iterator.item() {
            if key >= to.to_be_bytes().as_slice() {
                break;
            }
            found.push(codec::decode_entry(Bytes::copy_from_slice(wire))?);
            iterator.next();
        }
        iterator.status().map_err(io::Error::other)?;
        Ok(found)
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        // One look at the cache: entries leave it only once they are on disk, so the rest is there.
        let (split, tail) = {
            let cache = self.cache.lock();
            let split = cache.first_index().unwrap_or(to).clamp(from, to);
            (split, cache.range(split, to))
        };
        if split == from {
            return Ok(tail);
        }
        let mut entries = self.read_disk(from, split)?;
        entries.extend(tail);
        self.check_whole(from, &entries)?;
        Ok(entries)
    }

    /// Only what has been removed may be missing, and only at the beginning: openraft would apply what lies behind a gap.
    fn check_whole(&self, from: u64, entries: &[Entry]) -> io::Result<()> {
        let Some(first) = entries.first().map(Entry::index) else { return Ok(()) };
        let gap = (first..).zip(entries).find(|(index, entry)| *index != entry.index());
        let missing = match gap {
            Some((index, _)) => index,
            None if first > from && first > self.purged()? + 1 => from,
            None => return Ok(()),
        };
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the raft log has no entry {missing} although it has later ones: it is damaged; replace this member (member \
                 remove, an empty data directory, member add): its peers rebuild it"
            ),
        ))
    }
}

fn open_db(path: &Path) -> io::Result<DB> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    // A cut-off tail is what a crash leaves behind; a damaged middle is not, and must not pass silently.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(64 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(64);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&rocksdb::Cache::new_lru_cache(4 << 20));
    let family = |name: &str, write_buffer: usize| {
        let mut options = Options::default();
        options.set_write_buffer_size(write_buffer);
        options.set_max_write_buffer_number(2);
        options.set_block_based_table_factory(&table);
        ColumnFamilyDescriptor::new(name, options)
    };
    let families = [family("default", 1 << 20), family(ENTRIES, 4 << 20)];
    DB::open_cf_descriptors(&options, path, families).map_err(|error| {
        let text = error.to_string();
        let advice = if text.contains("lock file") || text.contains("lock hold") {
            "another process is using this data directory"
        } else {
            "the log is damaged; replace this member (member remove, an empty data directory, member add): its peers rebuild it"
        };
        io::Error::other(format!("cannot open the raft log {}: {advice} ({text})", path.display()))
    })
}

fn check_format(db: &DB, path: &Path) -> io::Result<()> {
    match db.get(FORMAT).map_err(io::Error::other)? {
        None => db.put(FORMAT, FORMAT_VALUE).map_err(io::Error::other),
        Some(found) if found == FORMAT_VALUE => Ok(()),
        Some(found) => Err(io::Error::other(format!(
            "the raft log {} has a format this version cannot read ({})",
            path.display(),
            hex::encode(found)
        ))),
    }
}

/// Every entry must decode and follow its predecessor; anything else is damage that must not be served.
fn check_entries(db: &DB, path: &Path) -> io::Result<()> {
    let Some(entries) = db.cf_handle(ENTRIES) else { return Ok(()) };
    let mut iterator = db.raw_iterator_cf(entries);
    iterator.seek_to_first();
    let mut before: Option<u64> = None;
    let bad = |detail: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the raft log {} is damaged: {detail}; replace this member (member remove, an empty data directory, \
                 member add): its peers rebuild it",
                path.display()
            ),
        )
    };
    while let Some((key, wire)) = iterator.item() {
        let entry =
            codec::decode_entry(Bytes::copy_from_slice(wire)).map_err(|error| bad(error.to_string()))?;
        let index = entry.index();
        if key != index.to_be_bytes() || before.is_some_and(|before| before + 1 != index) {
            return Err(bad(format!("entry {index} does not follow {before:?}")));
        }
        before = Some(index);
        iterator.next();
    }
    iterator.status().map_err(|error| bad(error.to_string()))
}

fn read_record<T: serde::de::DeserializeOwned>(db: &DB, key: &[u8]) -> io::Result<Option<T>> {
    db.get(key).map_err(io::Error::other)?.map(|wire| codec::decode(&wire)).transpose()
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.read(start, end.min(start.saturating_add(READ_ENTRIES_MAX)))?;
        if entries.first().is_some_and(|first| first.index() != start) {
            // Removed meanwhile: nothing is better for a follower than what lies behind a gap.
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let fits = entries.iter().take_while(|entry| {
            let room = bytes < READ_BYTES_MAX;
            if let openraft::EntryPayload::Normal(proposal) = &entry.payload {
                bytes += proposal.wire.len();
            }
            room
        });
        let fits = fits.count();
        entries.truncate(fits);
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id: Option<LogId> = read_record(&self.db, PURGED)?;
        let last = self.last_on_disk()?.map(|entry| entry.log_id());
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let value = codec::encode(vote)?;
        self.send_and_wait(|done| LogWrite::Record { key: VOTE, value, done }).await?;
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        // Goes with the next write: the entries are safe, and what is lost here is found again with the next leader.
        *self.committed.lock() = Some(codec::encode(&committed)?);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        if let Some(wire) = &*self.committed.lock() {
            return codec::decode(wire).map(Some);
        }
        let committed: Option<LogId> = read_record(&self.db, COMMITTED)?;
        let last = self.get_log_state().await?.last_log_id.map_or(0, |last| last.index());
        // It may have reached the disk before the entry it names, which a crash then took.
        Ok(committed.filter(|committed| committed.index() <= last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        {
            let mut cache = self.cache.lock();
            for entry in entries {
                let wire = codec::encode_entry(&entry)?;
                rows.push((entry.index(), wire.clone()));
                cache.push(entry, &wire);
            }
        }
        self.send(LogWrite::Append { rows, flushed: callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last = last_log_id.map(|log_id| log_id.index());
        self.cache.lock().truncate_after(last);
        let from = last.map_or(0, |last| last + 1);
        self.send_and_wait(|done| LogWrite::Remove { from, to: u64::MAX - 1, record: None, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let record = Some((PURGED, codec::encode(&log_id)?));
        self.send_and_wait(|done| LogWrite::Remove { from: 0, to: log_id.index(), record, done }).await?;
        self.cache.lock().purge(log_id.index());
        Ok(())
    }
}
