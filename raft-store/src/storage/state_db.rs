//! Opening, committing to and copying one state database.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use rocksdb::{
    Cache, ColumnFamily, DB, Direction, FlushOptions, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteOptions, checkpoint::Checkpoint,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Column;
use crate::error::Error;

/// Version of the row formats below; raised with every incompatible change.
pub const FORMAT_VERSION: u32 = 1;
/// First bytes of the format record, so that a foreign RocksDB is not taken for ours.
const MAGIC: &[u8; 8] = b"QDSTATE\0";
/// Key of the format record in `Column::Meta`.
const FORMAT_KEY: &[u8] = b"format";
/// Blocks read from disk and kept uncompressed, all families together.
const BLOCK_CACHE_BYTES: usize = 8 << 20;
/// Upper bound of all in-memory tables together; what counts towards a member's memory under load.
const MEMTABLES_BYTES: usize = 16 << 20;

/// Bytes read ahead while everything is verified.
const VERIFY_READAHEAD_BYTES: usize = 1 << 20;

/// Key and value of a row.
pub type Row = (Box<[u8]>, Box<[u8]>);

/// One generation of the applied state.
pub struct StateDb {
    db: DB,
    path: PathBuf,
    doomed: AtomicBool,
    // Declared after `db`: dropped when its files are closed.
    held: Mutex<Option<TaskTrackerToken>>,
}

impl Drop for StateDb {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a replaced state");
        }
    }
}

impl StateDb {
    /// Opens the database at `path`, creating it where there is none.
    ///
    /// Fails with a message naming the path when another process holds it, when a file is missing or
    /// damaged, or when it was written by a newer format.
    pub fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let options = options();
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = Column::ALL.iter().map(|column| column.descriptor(&cache));
        let db =
            DB::open_cf_descriptors(&options, path, families).map_err(|error| open_error(path, &error))?;
        let state =
            Self { db, path: path.to_path_buf(), doomed: AtomicBool::new(false), held: Mutex::new(None) };
        state.check_format()?;
        Ok(Arc::new(state))
    }

    fn check_format(&self) -> Result<(), Error> {
        let expected = format_record();
        match self.get(Column::Meta, FORMAT_KEY)? {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(Error::new(
                tonic::Code::DataLoss,
                format!(
                    "etcdserver: {} holds a state format this version cannot read ({}); \
                     start the version that wrote it, or replace this member (member remove, an empty data directory, member add)",
                    self.path.display(),
                    hex::encode(found)
                ),
            )),
            None => {
                let mut batch = WriteBatch::default();
                batch.put_cf(self.family(Column::Meta), FORMAT_KEY, expected);
                self.commit(batch)
            }
        }
    }

    /// A stand-in without files, for handles that outlive their member.
    pub fn closed() -> Result<Arc<Self>, Error> {
        let mut options = options();
        options.set_env(&rocksdb::Env::mem_env()?);
        let cache = Cache::new_lru_cache(0);
        let families = Column::ALL.iter().map(|column| column.descriptor(&cache));
        let path = PathBuf::from("/closed");
        let db = DB::open_cf_descriptors(&options, &path, families)?;
        Ok(Arc::new(Self { db, path, doomed: AtomicBool::new(false), held: Mutex::new(None) }))
    }

    /// The token is dropped when the files are closed, which is when the last reader has gone.
    pub fn hold_until_closed(&self, token: TaskTrackerToken) {
        *self.held.lock() = Some(token);
    }

    /// Another state took this one's place: its files go with its last reader.
    pub fn remove_when_unused(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn raw(&self) -> &DB {
        &self.db
    }

    /// The handle batches name a column by.
    pub fn family(&self, column: Column) -> &ColumnFamily {
        // Opened with every column of `Column::ALL`, so a miss is a programming error.
        self.db.cf_handle(column.name()).expect("every column family is opened at start")
    }

    /// Writes a batch atomically, into memory: durable once flushed, replayed from the Raft log before that.
    pub fn commit(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(Error::from)
    }

    /// Reads one row of the newest state.
    pub fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.family(column), key).map_err(Error::from)
    }

    /// Every row of a column as it is now, in order.
    pub fn rows(&self, column: Column) -> impl Iterator<Item = Result<Row, Error>> {
        self.db.iterator_cf(self.family(column), IteratorMode::Start).map(|row| row.map_err(Error::from))
    }

    /// The rows of a column from `start` to `end` (excluded) as they are now, in order; for small stretches.
    pub fn rows_between(&self, column: Column, start: &[u8], end: &[u8]) -> Result<Vec<Row>, Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mode = IteratorMode::From(start, Direction::Forward);
        let rows = self.db.iterator_cf_opt(self.family(column), options, mode);
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    /// Calls `visit` with every key from `start` to `end` (excluded; absent: to the last) as they are now.
    pub fn each_key_between(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.family(column), options);
        rows.seek(start);
        while let Some(key) = rows.key() {
            visit(key);
            rows.next();
        }
        rows.status().map_err(Error::from)
    }

    /// Reads every row, so that every checksum is looked at. The error names the file.
    pub fn verify(&self) -> Result<(), Error> {
        for column in Column::ALL {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_readahead_size(VERIFY_READAHEAD_BYTES);
            let mut rows = self.db.raw_iterator_cf_opt(self.family(column), options);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status().map_err(|error| open_error(&self.path, &error))?;
        }
        Ok(())
    }

    /// Makes everything committed so far durable, all columns at one point.
    pub fn flush(&self) -> Result<(), Error> {
        let families: Vec<&ColumnFamily> = Column::ALL.iter().map(|column| self.family(*column)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families, &options).map_err(Error::from)
    }

    /// Writes a durable copy of the state into the new folder `target`, sharing files by hard link.
    pub fn checkpoint(&self, target: &Path) -> Result<(), Error> {
        Checkpoint::new(&self.db)?.create_checkpoint(target).map_err(Error::from)
    }

    /// Bytes of table files on disk plus the tables still in memory.
    pub fn size_bytes(&self) -> u64 {
        let sum = |property: &str| {
            Column::ALL
                .iter()
                .filter_map(|column| {
                    self.db.property_int_value_cf(self.family(*column), property).ok().flatten()
                })
                .sum::<u64>()
        };
        sum("rocksdb.total-sst-files-size") + sum("rocksdb.cur-size-all-mem-tables")
    }

    /// Bytes of live rows, an estimate by RocksDB plus the tables still in memory.
    pub fn size_in_use_bytes(&self) -> u64 {
        let sum = |property: &str| {
            Column::ALL
                .iter()
                .filter_map(|column| {
                    self.db.property_int_value_cf(self.family(*column), property).ok().flatten()
                })
                .sum::<u64>()
        };
        (sum("rocksdb.estimate-live-data-size") + sum("rocksdb.cur-size-all-mem-tables"))
            .min(self.size_bytes())
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    options.set_db_write_buffer_size(MEMTABLES_BYTES);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(512);
    options.set_allow_concurrent_memtable_write(false);
    options
}

fn format_record() -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    record.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    let checksum = crc32fast::hash(&record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

fn open_error(path: &Path, error: &rocksdb::Error) -> Error {
    let text = error.to_string();
    let advice = if text.contains("lock file") || text.contains("lock hold") {
        "another process is using this data directory"
    } else {
        "the files are damaged; replace this member (member remove, an empty data directory, member add): its peers \
         rebuild it; or restore a snapshot"
    };
    Error::new(
        tonic::Code::DataLoss,
        format!("etcdserver: cannot open {}: {advice} ({text})", path.display()),
    )
}
