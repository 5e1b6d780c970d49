//! A view of the state as an etcd snapshot file, readable by etcd's own tools.

use std::{io, ops::ControlFlow, path::Path};

use bytes::{BufMut, BytesMut};
use prost::Message;
use proto::mvccpb::KeyValue;

use super::bolt_writer::BoltWriter;
use crate::{
    auth::AuthState,
    mvcc::{
        history::{decode_event, events_between, is_delete},
        keys::Position,
    },
    storage::{Column, View},
};

/// The storage version etcd's tools should take the file for.
const STORAGE_VERSION: &[u8] = b"3.6.0";

/// Writes the file. Buckets come in the order of their names, as the format wants.
pub fn write(view: &View, auth: &AuthState, path: &Path) -> io::Result<()> {
    let mut file = BoltWriter::create(path)?;
    file.bucket("alarm").finish()?;
    write_auth(&mut file, auth)?;
    let mut cluster = file.bucket("cluster");
    cluster.put(b"clusterVersion", STORAGE_VERSION)?;
    cluster.finish()?;
    write_keys(&mut file, view)?;
    write_leases(&mut file, view)?;
    file.bucket("members").finish()?;
    file.bucket("members_removed").finish()?;
    write_meta(&mut file, view)?;
    file.finish()
}

fn write_auth(file: &mut BoltWriter, auth: &AuthState) -> io::Result<()> {
    let record = auth.to_record();
    let mut bucket = file.bucket("auth");
    bucket.put(b"authEnabled", &[u8::from(record.enabled)])?;
    bucket.put(b"authRevision", &record.revision.to_be_bytes())?;
    bucket.finish()?;
    let mut bucket = file.bucket("authRoles");
    for role in &record.roles {
        bucket.put(&role.name, &role.encode_to_vec())?;
    }
    bucket.finish()?;
    let mut bucket = file.bucket("authUsers");
    for user in &record.users {
        bucket.put(&user.name, &user.encode_to_vec())?;
    }
    bucket.finish()
}

/// etcd's revision key: main, `_`, sub, and `t` for a deletion.
fn revision_key(position: Position, deleted: bool) -> Vec<u8> {
    let mut key = position.revision.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend_from_slice(&i64::from(position.sub).to_be_bytes());
    if deleted {
        key.push(b't');
    }
    key
}

fn write_keys(file: &mut BoltWriter, view: &View) -> io::Result<()> {
    let mut bucket = file.bucket("key");
    let mut failed = None;
    let walked = events_between(view, 0, view.revision, &mut |position, row| {
        let event = decode_event(row)?;
        let deleted = is_delete(&event);
        let mut kv = event.kv.unwrap_or_default();
        if deleted {
            kv = KeyValue { key: kv.key, ..Default::default() };
        }
        if let Err(error) = bucket.put(&revision_key(position, deleted), &kv.encode_to_vec()) {
            failed = Some(error);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    });
    walked.map_err(io::Error::other)?;
    match failed {
        Some(error) => Err(error),
        None => bucket.finish(),
    }
}

fn write_leases(file: &mut BoltWriter, view: &View) -> io::Result<()> {
    let mut bucket = file.bucket("lease");
    let mut cursor = view.cursor(Column::Leases, &[], None);
    while let Some((id, ttl)) = cursor.row() {
        let number = |bytes: &[u8]| bytes.try_into().map(i64::from_be_bytes).unwrap_or_default();
        bucket.put(id, &lease_record(number(id), number(ttl)))?;
        cursor.advance();
    }
    cursor.finish().map_err(io::Error::other)?;
    bucket.finish()
}

/// etcd's lease record: field 1 the id, field 2 the time, both varints.
fn lease_record(id: i64, ttl: i64) -> Vec<u8> {
    let mut record = BytesMut::new();
    for (field, number) in [(1_u8, id), (2, ttl)] {
        record.put_u8(field << 3);
        prost::encoding::encode_varint(number as u64, &mut record);
    }
    record.to_vec()
}

fn write_meta(file: &mut BoltWriter, view: &View) -> io::Result<()> {
    let compacted = revision_key(Position { revision: view.compact_revision, sub: 0 }, false);
    let mut bucket = file.bucket("meta");
    bucket.put(b"consistent_index", &view.applied_index.to_be_bytes())?;
    if view.compact_revision > 0 {
        bucket.put(b"finishedCompactRev", &compacted)?;
        bucket.put(b"scheduledCompactRev", &compacted)?;
    }
    bucket.put(b"storageVersion", STORAGE_VERSION)?;
    bucket.put(b"term", &1_u64.to_be_bytes())?;
    bucket.finish()
}
