//! Byte formats of log entries and of openraft's small records, on disk and between members.
//!
//! A log entry is `magic, version, kind, term, index, length, checksum, payload`. The checksum covers all of
//! it, so a flipped bit is found when the entry is read, wherever it flipped.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::{EntryPayload, entry::RaftEntry};
use serde::{Serialize, de::DeserializeOwned};

use super::types::{Entry, LogId, Proposal};

const MAGIC: u8 = 0xD1;
const VERSION: u8 = 1;
/// Bytes before the payload.
const HEADER_LEN: usize = 3 + 8 + 8 + 4 + 4;
const CHECKSUM_AT: usize = HEADER_LEN - 4;

/// Memory that one of openraft's records may ask for; a membership of thousands stays far below.
const RECORD_LEN_MAX: usize = 16 << 20;

const KIND_BLANK: u8 = 0;
const KIND_NORMAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// A record that is not what it should be.
fn damaged(what: &str, detail: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged {what}: {detail}"))
}

/// Encodes a log entry.
pub fn encode_entry(entry: &Entry) -> io::Result<Bytes> {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(proposal) => (KIND_NORMAL, proposal.wire.clone()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, encode(membership)?),
    };
    let log_id = entry.log_id();
    let length = u32::try_from(payload.len()).map_err(|_| damaged("log entry", "longer than 4 GiB"))?;
    let mut wire = BytesMut::with_capacity(HEADER_LEN + payload.len());
    wire.put_slice(&[MAGIC, VERSION, kind]);
    wire.put_u64(**log_id.committed_leader_id());
    wire.put_u64(log_id.index());
    wire.put_u32(length);
    wire.put_u32(checksum(&wire, &payload));
    wire.put_slice(&payload);
    Ok(wire.freeze())
}

/// Decodes a log entry; the payload shares the memory of `wire`.
pub fn decode_entry(wire: Bytes) -> io::Result<Entry> {
    let Some((header, payload)) = wire.split_at_checked(HEADER_LEN) else {
        return Err(damaged("log entry", format!("{} bytes", wire.len())));
    };
    if header[0] != MAGIC || header[1] != VERSION {
        return Err(damaged("log entry", format!("unknown format {:#04x} {}", header[0], header[1])));
    }
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let small = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let (term, index, length) = (number(3), number(11), small(19));
    if length as usize != payload.len() {
        return Err(damaged("log entry", format!("{} of {length} bytes at index {index}", payload.len())));
    }
    if small(CHECKSUM_AT) != checksum(&header[..CHECKSUM_AT], payload) {
        return Err(damaged("log entry", format!("wrong checksum at index {index}")));
    }
    let kind = header[2];
    let payload = wire.slice(HEADER_LEN..);
    let payload = match kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_NORMAL => EntryPayload::Normal(Proposal { wire: payload }),
        KIND_MEMBERSHIP => EntryPayload::Membership(decode(&payload)?),
        other => return Err(damaged("log entry", format!("unknown kind {other} at index {index}"))),
    };
    Ok(Entry::new(LogId::new_term_index(term, index), payload))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// Encodes one of openraft's records.
pub fn encode<T: Serialize>(record: &T) -> io::Result<Bytes> {
    bincode::serde::encode_to_vec(record, bincode::config::standard())
        .map(Bytes::from)
        .map_err(|error| damaged("record", error))
}

/// Decodes one of openraft's records.
pub fn decode<T: DeserializeOwned>(wire: &[u8]) -> io::Result<T> {
    // Without a limit a length that the bytes only claim would be believed.
    let limited = bincode::config::standard().with_limit::<RECORD_LEN_MAX>();
    let (record, used) =
        bincode::serde::decode_from_slice(wire, limited).map_err(|error| damaged("record", error))?;
    if used != wire.len() {
        return Err(damaged("record", format!("{} bytes too many", wire.len() - used)));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: &'static str) -> Entry {
        let proposal = Proposal { wire: Bytes::from_static(payload.as_bytes()) };
        Entry::new(LogId::new_term_index(3, 7), EntryPayload::Normal(proposal))
    }

    #[test]
    fn entries_survive_the_trip() {
        for payload in ["", "x", "a longer payload"] {
            let original = entry(payload);
            let decoded = decode_entry(encode_entry(&original).unwrap()).unwrap();
            assert_eq!(decoded.log_id(), original.log_id());
            assert_eq!(format!("{decoded}"), format!("{original}"));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let wire = encode_entry(&entry("payload")).unwrap();
        for at in 0..wire.len() {
            for bit in 0..8 {
                let mut bad = wire.to_vec();
                bad[at] ^= 1 << bit;
                assert!(decode_entry(bad.into()).is_err(), "bit {bit} of byte {at}");
            }
            assert!(decode_entry(wire.slice(..at)).is_err(), "cut at {at}");
        }
    }
}
