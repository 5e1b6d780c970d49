//! Every decoder of the store as a function from bytes to nothing, for the fuzz targets of the workspace. They may refuse
//! what they get and must not panic. Nothing else calls these.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message;
use proto::mvccpb::{Event, KeyValue};
use proto::raftpb::{AppendRequest, Batch};

use crate::auth::TokenSpec;
use crate::backup::bolt_writer::BoltWriter;
use crate::backup::{self, Contents};
use crate::cli;
use crate::mvcc::{history, keys, source};
use crate::raft::types::{SnapshotMeta, StoredMembership, Vote};
use crate::raft::{codec, network};
use crate::server::gateway::Gateway;

/// A log entry, a message between members, and rows.
pub fn record_examples() -> Vec<Vec<u8>> {
    let kv = KeyValue {
        key: "a".into(),
        value: "b".into(),
        create_revision: 1,
        mod_revision: 2,
        version: 3,
        lease: 4,
    };
    let event = Event { kv: Some(kv.clone()), ..Event::default() };
    let vote = codec::encode(&Vote::new(1, 2)).unwrap_or_default();
    let append = AppendRequest { head: vote.clone(), entries: vec![vote.clone()] };
    let rows = [
        kv.encode_to_vec(),
        event.encode_to_vec(),
        append.encode_to_vec(),
        keys::version_row(b"a\0b", 7),
        vote.to_vec(),
        codec::encode(&StoredMembership::default()).unwrap_or_default().to_vec(),
        // Claims a length that no memory has.
        b"\0\0\x01\0\0\x08\xfd\xff\xfc\0a\x1b\x1b\x1b\x1b\x1b".to_vec(),
    ];
    rows.into()
}

/// The same bytes as each sort of record.
pub fn records(bytes: &[u8]) {
    let wire = Bytes::copy_from_slice(bytes);
    let _ = codec::decode_entry(wire.clone());
    let _ = codec::decode::<Vote>(bytes);
    let _ = codec::decode::<StoredMembership>(bytes);
    let _ = codec::decode::<SnapshotMeta>(bytes);
    if let Ok(request) = AppendRequest::decode(wire.clone()) {
        let _ = network::decode_append(request);
    }
    let _ = Batch::decode(wire.clone());
    let _ = keys::Position::decode(bytes);
    if let Some((key, revision)) = keys::split_version_row(bytes) {
        assert_eq!(keys::version_row(&key, revision), bytes);
    }
    let _ = history::Version::decode(bytes);
    if let (Ok(event), Some((key, _))) = (history::decode_event(bytes), history::event_key(bytes))
        && let Some(kv) = event.kv
    {
        // Records are written in the order of their fields; only of such the short way must agree.
        let again = Event { kv: Some(kv.clone()), ..event }.encode_to_vec();
        assert!(again != bytes || kv.key == key);
    }
    let _ = source::decode_kv(b"key", wire);
}

/// A small file as the store writes it.
pub fn snapshot_examples() -> Vec<Vec<u8>> {
    let file = Scratch::new(&[]);
    let write = || -> std::io::Result<Vec<u8>> {
        let mut out = BoltWriter::create(&file.0)?;
        out.bucket("auth").finish()?;
        let mut keys = out.bucket("key");
        let kv = KeyValue { key: "a".into(), value: "b".into(), mod_revision: 2, ..KeyValue::default() };
        for revision in 2_i64..40 {
            let key = [&revision.to_be_bytes()[..], b"_", &0_i64.to_be_bytes()].concat();
            keys.put(&key, &kv.encode_to_vec())?;
        }
        keys.finish()?;
        out.finish()?;
        fs::read(&file.0)
    };
    write().map(|bytes| vec![bytes]).unwrap_or_default()
}

/// Looks into a file with this content.
pub fn snapshot(bytes: &[u8]) -> Option<Contents> {
    let file = Scratch::new(bytes);
    backup::status(&file.0).ok()
}

/// A file in memory that goes with the value.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quarterdeck-decoders-{}-{number}.db", std::process::id());
        let memory = std::path::Path::new("/dev/shm");
        let path = if memory.is_dir() { memory.join(name) } else { std::env::temp_dir().join(name) };
        // A file that cannot be written is one that cannot be read: the decoder says so.
        let _ = fs::write(&path, bytes);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A JSON body for one of the gateway's paths, and the same bytes as an answer to be shown.
pub fn gateway(path: usize, body: &[u8]) {
    static GATEWAY: LazyLock<Option<Gateway>> = LazyLock::new(|| Gateway::new().ok());
    if let Some(gateway) = &*GATEWAY {
        gateway.transcode(path, body);
    }
}

/// Flags with a language of their own. Those that name files read them, so only harmless ones are passed on.
pub fn flags(text: &str) {
    if !text.contains("-key=") {
        let _ = TokenSpec::parse(text);
    }
    let _ = cli::parse_cluster(text);
    let _ = cli::duration::parse(text);
}
