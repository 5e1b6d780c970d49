//! The small records of the state: where each stands and how it is encoded.

use prost::Message;
use proto::raftpb::{AlarmRecord, AuthRecord};

use crate::{
    error::Error,
    mvcc::pending::Pending,
    raft::{
        codec,
        types::{LogId, StoredMembership},
    },
    storage::{Column, StateDb},
};

const APPLIED: &[u8] = b"applied";
const LOGGED: &[u8] = b"logged";
const MEMBERSHIP: &[u8] = b"membership";
const REVISION: &[u8] = b"revision";
const COMPACT: &[u8] = b"compact";
const CLEANED: &[u8] = b"cleaned";
const AUTH: &[u8] = b"auth";
const ALARMS: &[u8] = b"alarms";
const DOWNGRADE: &[u8] = b"downgrade";

/// What a state database knows beside keys and leases.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The last log entry whose effects are included.
    pub applied: Option<LogId>,
    /// The last applied entry that was on the log's disk when this was written: the log must go at least this far.
    pub logged: u64,
    /// The last membership among them.
    pub membership: StoredMembership,
    /// The newest revision; 1 in an empty store, as in etcd.
    pub revision: i64,
    /// Reads below are refused.
    pub compact_revision: i64,
    /// History at or before this has been removed from the disk.
    pub cleaned_revision: i64,
    /// Users and roles.
    pub auth: AuthRecord,
    /// Raised alarms.
    pub alarms: AlarmRecord,
    /// The version an announced downgrade leads to; empty without one.
    pub downgrade: String,
}

impl Records {
    /// Reads all records of a state database.
    pub fn load(db: &StateDb) -> Result<Self, Error> {
        let number = |key: &[u8], default: i64| -> Result<i64, Error> {
            let Some(row) = db.get(Column::Meta, key)? else { return Ok(default) };
            let bytes = row.as_slice().try_into().map_err(|_| damaged(key))?;
            Ok(i64::from_be_bytes(bytes))
        };
        let applied = db.get(Column::Meta, APPLIED)?;
        let membership = db.get(Column::Meta, MEMBERSHIP)?;
        let message = |key: &[u8]| Ok::<_, Error>(db.get(Column::Meta, key)?.unwrap_or_default());
        Ok(Self {
            applied: applied.map(|row| codec::decode(&row)).transpose().map_err(|_| damaged(APPLIED))?,
            membership: membership
                .map(|row| codec::decode(&row))
                .transpose()
                .map_err(|_| damaged(MEMBERSHIP))?
                .unwrap_or_default(),
            logged: u64::try_from(number(LOGGED, 0)?).map_err(|_| damaged(LOGGED))?,
            revision: number(REVISION, 1)?,
            compact_revision: number(COMPACT, 0)?,
            cleaned_revision: number(CLEANED, 0)?,
            auth: AuthRecord::decode(message(AUTH)?.as_slice()).map_err(|_| damaged(AUTH))?,
            alarms: AlarmRecord::decode(message(ALARMS)?.as_slice()).map_err(|_| damaged(ALARMS))?,
            downgrade: String::from_utf8(message(DOWNGRADE)?).map_err(|_| damaged(DOWNGRADE))?,
        })
    }
}

impl Records {
    /// Ties a state to the beginning of another log, with other members. It is the entry that these would have written
    /// first; since it is not in the log, a member that joins later is sent the whole state and not only what comes after.
    pub fn begin_cluster(
        db: &StateDb,
        batch: &mut rocksdb::WriteBatch,
        founders: &StoredMembership,
    ) -> Result<(), Error> {
        let meta = db.family(Column::Meta);
        if let Some(position) = founders.log_id() {
            batch.put_cf(meta, APPLIED, codec::encode(position).map_err(Error::internal)?);
        }
        batch.put_cf(meta, MEMBERSHIP, codec::encode(founders).map_err(Error::internal)?);
        batch.delete_cf(meta, LOGGED);
        Ok(())
    }

    /// Writes the records of a state that was restored and has not applied any log entry.
    pub fn write_initial(
        db: &StateDb,
        batch: &mut rocksdb::WriteBatch,
        revision: i64,
        compact_revision: i64,
        auth: &AuthRecord,
    ) {
        let meta = db.family(Column::Meta);
        batch.put_cf(meta, REVISION, revision.to_be_bytes());
        batch.put_cf(meta, COMPACT, compact_revision.to_be_bytes());
        batch.put_cf(meta, AUTH, auth.encode_to_vec());
    }
}

fn damaged(key: &[u8]) -> Error {
    let key = String::from_utf8_lossy(key);
    Error::new(tonic::Code::DataLoss, format!("etcdserver: the {key} record of the state is damaged"))
}

/// Writes of single records into a pending batch.
pub trait WriteRecords {
    /// The applied index; part of every batch.
    fn put_applied(&mut self, applied: &LogId) -> Result<(), Error>;
    /// How far the log was on disk by then.
    fn put_logged(&mut self, index: u64);
    /// The membership of an entry that changed it.
    fn put_membership(&mut self, membership: &StoredMembership) -> Result<(), Error>;
    /// The newest revision.
    fn put_revision(&mut self, revision: i64);
    /// The compact revision.
    fn put_compact_revision(&mut self, revision: i64);
    /// Users and roles.
    fn put_auth(&mut self, record: &AuthRecord);
    /// Alarms.
    fn put_alarms(&mut self, record: &AlarmRecord);
    /// The announced downgrade.
    fn put_downgrade(&mut self, version: &str);
}

impl WriteRecords for Pending {
    fn put_applied(&mut self, applied: &LogId) -> Result<(), Error> {
        self.put_row(Column::Meta, APPLIED, &codec::encode(applied).map_err(Error::internal)?);
        Ok(())
    }

    fn put_logged(&mut self, index: u64) {
        self.put_row(Column::Meta, LOGGED, &index.to_be_bytes());
    }

    fn put_membership(&mut self, membership: &StoredMembership) -> Result<(), Error> {
        self.put_row(Column::Meta, MEMBERSHIP, &codec::encode(membership).map_err(Error::internal)?);
        Ok(())
    }

    fn put_revision(&mut self, revision: i64) {
        self.put_row(Column::Meta, REVISION, &revision.to_be_bytes());
    }

    fn put_compact_revision(&mut self, revision: i64) {
        self.put_row(Column::Meta, COMPACT, &revision.to_be_bytes());
    }

    fn put_auth(&mut self, record: &AuthRecord) {
        self.put_row(Column::Meta, AUTH, &record.encode_to_vec());
    }

    fn put_alarms(&mut self, record: &AlarmRecord) {
        self.put_row(Column::Meta, ALARMS, &record.encode_to_vec());
    }

    fn put_downgrade(&mut self, version: &str) {
        self.put_row(Column::Meta, DOWNGRADE, version.as_bytes());
    }
}

/// Notes in a clean-up batch how far history has been removed.
pub fn put_cleaned(db: &StateDb, batch: &mut rocksdb::WriteBatch, revision: i64) {
    batch.put_cf(db.family(Column::Meta), CLEANED, revision.to_be_bytes());
}
