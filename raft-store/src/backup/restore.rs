//! A data directory from a snapshot file: ours or etcd's, they are the same.

use std::{collections::HashSet, fs, io, path::Path};

use bytes::Bytes;
use prost::Message;
use proto::{
    authpb::{Role, User},
    mvccpb::{Event, KeyValue, event::EventType},
    raftpb::AuthRecord,
};
use rocksdb::WriteBatch;
use sha2::{Digest, Sha256};

use super::{Contents, RestoreChanges, RestoreError, RestoreOptions, beside, bolt_reader::BoltReader};
use crate::{
    cli::parse_cluster,
    config::Config,
    error::Error,
    machine::Records,
    member::{
        identity::{self, Identity},
        layout::{Layout, sync_parent, touch_private},
    },
    mvcc::{
        history::Version,
        keys::{Position, lease_key_row, version_row},
    },
    storage::{Column, StateDb},
};

/// Bytes of rows written at a time.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// A checksum behind the file, as etcd's clients leave it.
const SHA256_LEN: u64 = 32;
/// Data files are whole disk sectors long, so this much more is a checksum.
const SECTOR: u64 = 512;

/// Checks the checksum a client has put behind the file; returns the file's size.
pub fn check_file(path: &Path, may_lack: bool) -> Result<u64, RestoreError> {
    let size = fs::metadata(path)?.len();
    if size % SECTOR != SHA256_LEN {
        return if may_lack { Ok(size) } else { Err(RestoreError::MissingChecksum) };
    }
    let mut file = io::Read::take(fs::File::open(path)?, size - SHA256_LEN);
    let mut hasher = HashWriter(Sha256::new());
    io::copy(&mut file, &mut hasher)?;
    let mut expected = Vec::new();
    io::Read::read_to_end(&mut file.into_inner(), &mut expected)?;
    if hasher.0.finalize().as_slice() != expected.as_slice() {
        return Err(RestoreError::Checksum(path.display().to_string()));
    }
    Ok(size)
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the data directory. It appears under its name only when it is complete.
pub fn restore(options: &RestoreOptions, changes: RestoreChanges) -> Result<Contents, RestoreError> {
    let config = config_of(options)?;
    if options.data_dir.join("member").exists() {
        return Err(RestoreError::Exists(options.data_dir.display().to_string()));
    }
    let size = if changes.skip_hash_check {
        fs::metadata(&options.snapshot)?.len()
    } else {
        check_file(&options.snapshot, false)?
    };
    let reader = BoltReader::open(&options.snapshot)?;
    let draft = beside(&options.data_dir, ".restoring");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    touch_private(&draft)?;
    let layout = Layout::prepare(&draft)?;
    let identity = Identity::of_founder(&config).map_err(RestoreError::Options)?;
    identity.store(&layout.identity_file())?;
    layout.store_founders(&options.initial_cluster, &options.initial_cluster_token)?;
    let db = StateDb::open(&layout.state()?)?;
    let mut loader =
        Loader { db: &db, batch: WriteBatch::default(), contents: Contents::default(), failed: None };
    loader.load(&reader, i64::from(changes.bump_revision))?;
    let founders = identity::beginning(identity::founding_members(&config))?;
    Records::begin_cluster(&db, &mut loader.batch, &founders)?;
    loader.commit()?;
    let mut contents = loader.contents;
    contents.size = size;
    db.flush()?;
    drop(db);
    if let Some(parent) = options.data_dir.parent() {
        fs::create_dir_all(parent)?;
    }
    if options.data_dir.exists() {
        // An empty folder made for us; a full one makes this fail, which is right.
        fs::remove_dir(&options.data_dir)?;
    }
    fs::rename(&draft, &options.data_dir)?;
    sync_parent(&options.data_dir)?;
    Ok(contents)
}

fn config_of(options: &RestoreOptions) -> Result<Config, RestoreError> {
    let mut config = Config::embedded(&options.data_dir);
    config.name = options.name.clone();
    config.initial_cluster = parse_cluster(&options.initial_cluster).map_err(RestoreError::Options)?;
    config.initial_cluster_token = options.initial_cluster_token.clone();
    config.initial_advertise_peer_urls =
        options.peer_url.split(',').map(|url| url.trim().to_owned()).collect();
    Ok(config)
}

/// Hash, newest revision and number of keys of a file.
pub fn inspect(path: &Path) -> Result<Contents, RestoreError> {
    let size = check_file(path, true)?;
    let reader = BoltReader::open(path)?;
    let mut contents = Contents { size, ..Contents::default() };
    let mut hasher = Castagnoli::default();
    let mut live = HashSet::new();
    let buckets = reader.buckets()?;
    for name in &buckets {
        hasher.update(name.as_bytes());
        reader.bucket(name, &mut |key, value| {
            hasher.update(key);
            hasher.update(value);
            if name != "key" {
                return Ok(());
            }
            let (position, deleted) = parse_revision(key)?;
            contents.revision = position.revision;
            let kv = KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|_| damaged("a key"))?;
            if deleted {
                live.remove(&kv.key);
            } else {
                live.insert(kv.key);
            }
            Ok(())
        })?;
    }
    contents.hash = hasher.finish();
    contents.keys = live.len() as u64;
    let is_snapshot = buckets.iter().any(|name| name == "key");
    if is_snapshot { Ok(contents) } else { Err(RestoreError::NotASnapshot) }
}

/// The checksum etcdutl shows: CRC-32 with Castagnoli's polynomial.
struct Castagnoli(u32);

impl Default for Castagnoli {
    fn default() -> Self {
        Self(!0)
    }
}

impl Castagnoli {
    /// For each byte, what eight steps of division make of it.
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let (mut rest, mut bit) = (at as u32, 0);
            while bit < 8 {
                rest = if rest & 1 == 1 { rest >> 1 ^ 0x82f6_3b78 } else { rest >> 1 };
                bit += 1;
            }
            table[at] = rest;
            at += 1;
        }
        table
    };

    fn update(&mut self, bytes: &[u8]) {
        self.0 =
            bytes.iter().fold(self.0, |crc, byte| crc >> 8 ^ Self::TABLE[usize::from((crc as u8) ^ byte)]);
    }

    fn finish(self) -> u32 {
        !self.0
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged snapshot: {what}"))
}

/// Position and whether it is a deletion.
fn parse_revision(key: &[u8]) -> io::Result<(Position, bool)> {
    let number = |at: usize| key.get(at..at + 8)?.try_into().ok().map(i64::from_be_bytes);
    let (Some(revision), Some(sub)) = (number(0), number(9)) else { return Err(damaged("a revision")) };
    let sub = u32::try_from(sub).map_err(|_| damaged("a revision"))?;
    Ok((Position { revision, sub }, key.get(17) == Some(&b't')))
}

struct Loader<'d> {
    db: &'d StateDb,
    batch: WriteBatch,
    contents: Contents,
    failed: Option<Error>,
}

impl Loader<'_> {
    fn load(&mut self, reader: &BoltReader, bump: i64) -> Result<(), RestoreError> {
        let keys = reader.bucket("key", &mut |key, value| self.event(key, value))?;
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        if !keys {
            return Err(RestoreError::NotASnapshot);
        }
        self.tie_leases()?;
        reader.bucket("lease", &mut |id, record| self.lease(id, record))?;
        let mut compacted = 0;
        reader.bucket("meta", &mut |key, value| {
            if key == b"scheduledCompactRev" || key == b"finishedCompactRev" {
                compacted = parse_revision(value)?.0.revision.max(compacted);
            }
            Ok(())
        })?;
        let auth = read_auth(reader)?;
        let mut revision = self.contents.revision.max(compacted).max(1);
        if bump > 0 {
            revision += bump;
            (compacted, self.contents.revision) = (revision, revision);
        }
        Records::write_initial(self.db, &mut self.batch, revision, compacted, &auth);
        self.commit()?;
        Ok(())
    }

    fn event(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let (position, deleted) = parse_revision(key)?;
        let kv = KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|_| damaged("a key"))?;
        self.contents.revision = position.revision;
        if kv.key.is_empty() {
            // etcdutl leaves such a record where it raised the revision.
            return Ok(());
        }
        let user_key = kv.key.clone();
        let family = |column| self.db.family(column);
        if deleted {
            self.batch.delete_cf(family(Column::Latest), &user_key);
        } else {
            self.batch.put_cf(family(Column::Latest), &user_key, kv.encode_to_vec());
        }
        let (kind, kv) = if deleted {
            let gone = KeyValue { key: kv.key, mod_revision: position.revision, ..Default::default() };
            (EventType::Delete, gone)
        } else {
            (EventType::Put, kv)
        };
        let event = Event { r#type: kind as i32, kv: Some(kv), prev_kv: None };
        self.batch.put_cf(family(Column::Events), position.encode(), event.encode_to_vec());
        let version = Version { sub: position.sub, tombstone: deleted };
        self.batch.put_cf(
            family(Column::Versions),
            version_row(&user_key, position.revision),
            version.encode(),
        );
        self.contents.keys += 1;
        if self.batch.size_in_bytes() > BATCH_BYTES_MAX {
            self.commit().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.db.commit(std::mem::take(&mut self.batch))
    }

    /// Notes which of the keys that are left go with which lease.
    fn tie_leases(&mut self) -> Result<(), Error> {
        self.commit()?;
        let rows = self.db.rows(Column::Latest);
        for row in rows {
            let (key, value) = row?;
            let kv = crate::mvcc::source::decode_kv(&key, value.into())?;
            if kv.lease != 0 {
                self.batch.put_cf(self.db.family(Column::LeaseKeys), lease_key_row(kv.lease, &key), []);
            }
        }
        self.commit()
    }

    fn lease(&mut self, id: &[u8], record: &[u8]) -> io::Result<()> {
        let mut rest = record;
        let mut ttl = 0;
        while !rest.is_empty() {
            let tag = prost::encoding::decode_varint(&mut rest).map_err(|_| damaged("a lease"))?;
            let number = prost::encoding::decode_varint(&mut rest).map_err(|_| damaged("a lease"))?;
            if tag >> 3 == 2 {
                ttl = number as i64;
            }
        }
        self.batch.put_cf(self.db.family(Column::Leases), id, ttl.to_be_bytes());
        Ok(())
    }
}

fn read_auth(reader: &BoltReader) -> Result<AuthRecord, RestoreError> {
    let mut record = AuthRecord { revision: 1, ..AuthRecord::default() };
    reader.bucket("auth", &mut |key, value| {
        match key {
            b"authEnabled" => record.enabled = value == [1],
            b"authRevision" => {
                record.revision = value.try_into().map(u64::from_be_bytes).map_err(|_| damaged("auth"))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    reader.bucket("authUsers", &mut |_, value| {
        record.users.push(User::decode(value).map_err(|_| damaged("a user"))?);
        Ok(())
    })?;
    reader.bucket("authRoles", &mut |_, value| {
        record.roles.push(Role::decode(value).map_err(|_| damaged("a role"))?);
        Ok(())
    })?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{bolt_writer::BoltWriter, restore_changed};

    fn revision_key(revision: i64) -> Vec<u8> {
        [&revision.to_be_bytes()[..], b"_", &0_i64.to_be_bytes()].concat()
    }

    /// A snapshot with a key at revision 2 and, as etcdutl leaves it, a raised revision without one.
    fn write_snapshot(path: &Path) {
        let mut file = BoltWriter::create(path).unwrap();
        let mut keys = file.bucket("key");
        let kv = KeyValue {
            key: "a".into(),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            ..Default::default()
        };
        keys.put(&revision_key(2), &kv.encode_to_vec()).unwrap();
        keys.put(&revision_key(1_000), &[]).unwrap();
        keys.finish().unwrap();
        file.finish().unwrap();
    }

    fn options(dir: &Path) -> RestoreOptions {
        let url = "http://localhost:2380";
        RestoreOptions {
            snapshot: dir.join("snapshot.db"),
            data_dir: dir.join("data.1"),
            name: "default".into(),
            initial_cluster: format!("default={url}"),
            initial_cluster_token: "t".into(),
            peer_url: url.into(),
        }
    }

    #[test]
    fn a_file_without_checksum_is_taken_when_asked_and_revisions_can_be_raised() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        write_snapshot(&options.snapshot);
        let refused = restore_changed(&options, RestoreChanges::default());
        assert!(matches!(refused, Err(RestoreError::MissingChecksum)), "{refused:?}");
        assert!(!options.data_dir.exists());
        let changes = RestoreChanges { skip_hash_check: true, bump_revision: 500 };
        let restored = restore_changed(&options, changes).unwrap();
        assert_eq!((restored.keys, restored.revision), (1, 1_500), "a record without a key is none");
        assert_eq!(fs::metadata(&options.data_dir).unwrap().permissions().mode() & 0o777, 0o700);
        let db = StateDb::open(&options.data_dir.join("member/state-1")).unwrap();
        let records = Records::load(&db).unwrap();
        assert_eq!((records.revision, records.compact_revision), (1_500, 1_500));
    }

    #[test]
    fn a_file_is_described_as_etcdutl_does() {
        let mut crc = Castagnoli::default();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.finish(), 0xe306_9283, "the check value of CRC-32C");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot.db");
        write_snapshot(&path);
        let found = inspect(&path).unwrap();
        assert_eq!((found.keys, found.revision), (2, 1_000));
    }
}
