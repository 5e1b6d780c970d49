//! Kubernetes' protobuf form of built-in objects, driven by the schema tables.
//!
//! A body is the four bytes `k8s\0` and an `Unknown` message that names apiVersion and kind and holds the object's
//! message. [`decode`] and [`encode`] work on whole bodies; the other functions on parts, so that a list can be
//! put together from items that were encoded long before. Custom objects have no protobuf form.

mod message;
mod reader;
pub(crate) mod writer;

use serde_json::Value;
use thiserror::Error;

use crate::resources::{api_version as join_version, split_api_version};
use crate::schema::{self, Schema};

pub use message::{decode_message, encode_message};

/// First bytes of every body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Why bytes are no object, or an object has no bytes. A retry never helps.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoPrefix,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    #[error("proto: integer overflow")]
    Overflow,
    #[error("string field contains invalid UTF-8")]
    Utf8,
    #[error("proto: message nests deeper than {DEPTH_MAX} levels")]
    Depth,
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind { api_version: String, kind: String },
    #[error("{field}: {what}")]
    Value { field: String, what: String },
}

/// Deepest nesting that is followed. No kind comes near it; it bounds the stack that a hostile body can use.
pub const DEPTH_MAX: u32 = 128;

/// A decoded body. The value carries apiVersion and kind as its JSON form does.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub api_version: String,
    pub kind: String,
    pub value: Value,
}

/// Whether the bytes begin as a protobuf body does.
pub fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The schema of a kind as it travels: built-in kinds, and the meta kinds in any group.
pub fn schema_of(api_version: &str, kind: &str) -> Option<Schema> {
    let (group, version) = split_api_version(api_version);
    schema::for_kind(group, version, kind).or_else(|| {
        let meta = matches!(
            kind,
            "DeleteOptions"
                | "CreateOptions"
                | "UpdateOptions"
                | "PatchOptions"
                | "GetOptions"
                | "ListOptions"
                | "TableOptions"
                | "Status"
                | "WatchEvent"
                | "PartialObjectMetadata"
                | "PartialObjectMetadataList"
        );
        if meta { schema::definition(&format!("{META}{kind}")) } else { None }
    })
}

/// The parts of a body: apiVersion, kind and the object's message.
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
    pub content_type: &'a str,
}

/// Takes a body apart without looking at the object.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, CodecError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(CodecError::NoPrefix)?;
    let mut out = Envelope { api_version: "", kind: "", raw: &[], content_type: "" };
    let mut reader = reader::Reader::new(rest);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => {
                let mut meta = reader::Reader::new(reader.bytes(tag)?);
                while let Some(tag) = meta.tag()? {
                    match tag.number {
                        1 => out.api_version = meta.text(tag)?,
                        2 => out.kind = meta.text(tag)?,
                        _ => meta.skip(tag)?,
                    }
                }
            }
            2 => out.raw = reader.bytes(tag)?,
            4 => out.content_type = reader.text(tag)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(out)
}

/// Decodes a body.
pub fn decode(bytes: &[u8]) -> Result<Decoded, CodecError> {
    let envelope = open(bytes)?;
    let (api_version, kind) = (envelope.api_version.to_owned(), envelope.kind.to_owned());
    let Some(schema) = schema_of(&api_version, &kind) else {
        return Err(CodecError::UnknownKind { api_version, kind });
    };
    let mut value = decode_message(&schema, envelope.raw)?;
    if let Value::Object(members) = &mut value {
        members.insert("apiVersion".to_owned(), Value::String(api_version.clone()));
        members.insert("kind".to_owned(), Value::String(kind.clone()));
    }
    Ok(Decoded { api_version, kind, value })
}

/// Encodes an object, which must carry apiVersion and kind, as a body.
pub fn encode(object: &Value) -> Result<Vec<u8>, CodecError> {
    let (api_version, kind) = (crate::object::api_version(object), crate::object::kind(object));
    let Some(schema) = schema_of(api_version, kind) else {
        return Err(CodecError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    let mut raw = Vec::with_capacity(RAW_BYTES_GUESS);
    encode_message(&schema, object, &mut raw)?;
    Ok(envelope(api_version, kind, &raw))
}

/// Fits most objects, so that encoding one rarely grows the buffer.
const RAW_BYTES_GUESS: usize = 2048;

/// Wraps an object's message as a body.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    writer::message(&mut out, 1, |out| {
        writer::bytes(out, 1, api_version.as_bytes());
        writer::bytes(out, 2, kind.as_bytes());
    });
    writer::bytes(&mut out, 2, raw);
    writer::bytes(&mut out, 3, b"");
    writer::bytes(&mut out, 4, b"");
    out
}

/// What stands around the items' messages in a list's body, so that a long list need not be one buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct ListFrame {
    /// Before the first item.
    pub head: Vec<u8>,
    /// After the last one.
    pub tail: Vec<u8>,
}

/// The frame of a list whose items' messages (which carry no apiVersion and kind) have these lengths. Before each of
/// them goes its [`item_prefix`].
pub fn list_frame(
    api_version: &str,
    list_kind: &str,
    list_meta: &Value,
    lens: impl Iterator<Item = usize>,
) -> Result<ListFrame, CodecError> {
    let mut meta = Vec::new();
    if let Some(schema) = schema::definition(&format!("{META}ListMeta")) {
        let mut message = Vec::new();
        encode_message(&schema, list_meta, &mut message)?;
        writer::bytes(&mut meta, 1, &message);
    }
    let items: usize = lens.map(|len| item_prefix(len).len() + len).sum();
    let mut head = MAGIC.to_vec();
    writer::message(&mut head, 1, |out| {
        writer::bytes(out, 1, api_version.as_bytes());
        writer::bytes(out, 2, list_kind.as_bytes());
    });
    writer::bytes_head(&mut head, 2, meta.len() + items);
    head.extend_from_slice(&meta);
    let mut tail = Vec::new();
    writer::bytes(&mut tail, 3, b"");
    writer::bytes(&mut tail, 4, b"");
    Ok(ListFrame { head, tail })
}

/// What stands before an item's message of this length.
pub fn item_prefix(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(6);
    writer::bytes_head(&mut out, 2, len);
    out
}

/// One frame of a watch stream: the length in four bytes, then a bare WatchEvent whose object is a whole body.
pub fn encode_watch_event(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(object.len() + 32);
    event.extend_from_slice(&[0; 4]);
    writer::bytes(&mut event, 1, event_type.as_bytes());
    writer::message(&mut event, 2, |out| writer::bytes(out, 1, object));
    let len = u32::try_from(event.len() - 4).unwrap_or(u32::MAX);
    event[..4].copy_from_slice(&len.to_be_bytes());
    event
}

/// Reads one frame's WatchEvent (without the length): its type and its object's body.
pub fn decode_watch_event(event: &[u8]) -> Result<(&str, &[u8]), CodecError> {
    let mut out: (&str, &[u8]) = ("", &[]);
    let mut reader = reader::Reader::new(event);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => out.0 = reader.text(tag)?,
            2 => {
                let mut object = reader::Reader::new(reader.bytes(tag)?);
                while let Some(tag) = object.tag()? {
                    match tag.number {
                        1 => out.1 = object.bytes(tag)?,
                        _ => object.skip(tag)?,
                    }
                }
            }
            _ => reader.skip(tag)?,
        }
    }
    Ok(out)
}

/// The list kind and apiVersion of a kind's group-version, for [`list_frame`].
pub fn list_kind(group: &str, version: &str, kind: &str) -> (String, String) {
    (join_version(group, version), format!("{kind}List"))
}

#[cfg(test)]
mod tests;
