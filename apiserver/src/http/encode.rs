//! Objects, lists and watch events in the form a request agreed on, from shared bytes wherever that is possible.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use machinery::codec;
use machinery::status::StatusError;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::body::Pieces;
use super::negotiate::{Encoding, Form, Transform};
use crate::cache::event::EncodingKey;
use crate::cache::{Entry, Event, EventType, layout};
use crate::registry::Answer;
use crate::registry::convert::Conversion;
use crate::registry::kind::Kind;
use crate::registry::read::Listed;
use crate::registry::update::served;
use crate::table::{self, IncludeObject};

const METADATA_VERSION: &str = "meta.k8s.io/v1";

fn failed(why: impl std::fmt::Display) -> StatusError {
    StatusError::internal(format!("encoding the answer: {why}"))
}

/// A tree in an encoding.
pub fn value(value: &Value, encoding: Encoding) -> Result<Bytes, StatusError> {
    match encoding {
        Encoding::Json => serde_json::to_vec(value).map(Bytes::from).map_err(failed),
        Encoding::Yaml => serde_yaml_ng::to_string(value).map(Bytes::from).map_err(failed),
        Encoding::Protobuf => codec::encode(value).map(Bytes::from).map_err(failed),
    }
}

/// One answer object.
pub fn answer(
    kind: &Kind,
    answer: &Answer,
    form: Form,
    include: IncludeObject,
) -> Result<Pieces, StatusError> {
    let mut pieces = Pieces::default();
    match answer {
        Answer::Stored(entry) => object(&mut pieces, kind, entry, form, include)?,
        Answer::Object(tree) => pieces.push(tree_in_form(kind, tree, form, include)?),
    }
    Ok(pieces)
}

fn tree_in_form(kind: &Kind, tree: &Value, form: Form, include: IncludeObject) -> Result<Bytes, StatusError> {
    // A Status is never turned into a table.
    if tree["kind"] == "Status" {
        return value(tree, form.encoding);
    }
    match form.transform {
        Transform::None => value(tree, form.encoding),
        Transform::Metadata => value(&partial(tree), form.encoding),
        Transform::Table => {
            value(&table::of(kind, std::iter::once(Cow::Borrowed(tree)), include, true), form.encoding)
        }
    }
}

fn object(
    pieces: &mut Pieces,
    kind: &Kind,
    entry: &Arc<Entry>,
    form: Form,
    include: IncludeObject,
) -> Result<(), StatusError> {
    match (form.encoding, form.transform) {
        (Encoding::Json, Transform::None) => put_json(pieces, kind, entry),
        (Encoding::Json, Transform::Metadata) => pieces.push(partial_json(entry)?),
        (Encoding::Protobuf, Transform::None) => {
            let message = message(kind, entry).ok_or_else(|| failed("the kind has no protobuf form"))?;
            pieces.push(codec::envelope(&kind.api_version(), &kind.kind, &message));
        }
        _ => pieces.push(tree_in_form(kind, &served(kind, entry), form, include)?),
    }
    Ok(())
}

/// The object's JSON at the version of the request.
fn put_json(pieces: &mut Pieces, kind: &Kind, entry: &Entry) {
    match kind.conversion {
        Conversion::Same => pieces.push(entry.json.clone()),
        Conversion::ApiVersion => {
            pieces.push(Bytes::copy_from_slice(&kind.lead));
            pieces.push(entry.json.slice(lead_len(kind)..));
        }
        _ => pieces.push(serde_json::to_vec(&served(kind, entry)).unwrap_or_default()),
    }
}

fn lead_len(kind: &Kind) -> usize {
    kind.storage.as_ref().map_or(0, |s| s.cache.spec.layout.lead_len())
}

/// The bare protobuf message, shared when the versions agree.
fn message(kind: &Kind, entry: &Entry) -> Option<Bytes> {
    let encode = |value: &Value| {
        let mut out = Vec::with_capacity(entry.json.len() / 2);
        codec::encode_message(&kind.schema, value, &mut out).ok()?;
        Some(Bytes::from(out))
    };
    if kind.is_custom() {
        return None;
    }
    if kind.conversion == Conversion::Same {
        return entry.protobuf(encode);
    }
    encode(&served(kind, entry))
}

/// Metadata alone, copied out of the bytes without parsing the rest.
fn partial_json(entry: &Entry) -> Result<Bytes, StatusError> {
    let mut out =
        format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{METADATA_VERSION}\",\"metadata\":");
    out.push_str(metadata_of(entry)?.get());
    out.push('}');
    Ok(out.into())
}

fn metadata_of(entry: &Entry) -> Result<&RawValue, StatusError> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    serde_json::from_slice::<Head<'_>>(&entry.json).map(|h| h.metadata).map_err(failed)
}

fn partial(tree: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": METADATA_VERSION, "metadata": tree["metadata"]})
}

/// A list.
pub fn list(kind: &Kind, listed: Listed, form: Form, include: IncludeObject) -> Result<Pieces, StatusError> {
    let metadata = list_metadata(&listed);
    match (form.encoding, form.transform) {
        (Encoding::Json, Transform::None) => Ok(json_list(kind, listed, &metadata)),
        (Encoding::Protobuf, Transform::None) => protobuf_list(kind, &listed, &metadata),
        (encoding, transform) => {
            let mut pieces = Pieces::default();
            let tree = list_tree(kind, &listed, metadata, transform, include)?;
            pieces.push(value(&tree, encoding)?);
            Ok(pieces)
        }
    }
}

fn list_metadata(listed: &Listed) -> Value {
    let mut metadata = json!({"resourceVersion": listed.revision.to_string()});
    if let Some(token) = &listed.continue_token {
        metadata["continue"] = token.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

fn json_list(kind: &Kind, listed: Listed, metadata: &Value) -> Pieces {
    let api_version = kind.api_version();
    let mut pieces = Pieces::with_capacity(2 * listed.entries.len() + 2);
    let list_kind = Value::from(kind.list_kind.as_str());
    pieces.push(format!(
        "{{\"kind\":{list_kind},\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
    ));
    // Items of built-in lists have no kind and version of their own.
    let (open, cut) = match (kind.is_custom(), kind.conversion.is_splice()) {
        (false, true) => (Bytes::from_static(b"{"), lead_len(kind)),
        (true, true) => (Bytes::copy_from_slice(&kind.lead), lead_len(kind)),
        (_, false) => (Bytes::new(), 0),
    };
    // A constant where it can be: counting references of a shared one costs more than the two bytes.
    let separator =
        if open == b"{"[..] { Bytes::from_static(b",{") } else { [b",", &open[..]].concat().into() };
    for (i, entry) in listed.entries.into_iter().enumerate() {
        pieces.push(if i == 0 { open.clone() } else { separator.clone() });
        if kind.conversion.is_splice() {
            pieces.push_json(entry, cut);
        } else {
            pieces.push(serde_json::to_vec(&served(kind, &entry)).unwrap_or_default());
        }
    }
    pieces.push(Bytes::from_static(b"]}\n"));
    pieces
}

fn protobuf_list(kind: &Kind, listed: &Listed, metadata: &Value) -> Result<Pieces, StatusError> {
    let messages: Option<Vec<Bytes>> = listed.entries.iter().map(|e| message(kind, e)).collect();
    let messages = messages.ok_or_else(|| failed("the kind has no protobuf form"))?;
    let lens = messages.iter().map(Bytes::len);
    let frame = codec::list_frame(&kind.api_version(), &kind.list_kind, metadata, lens).map_err(failed)?;
    let prefixes: Vec<Vec<u8>> = messages.iter().map(|m| codec::item_prefix(m.len())).collect();
    let mut rest = Bytes::from(prefixes.concat());
    let mut pieces = Pieces::with_capacity(2 * messages.len() + 2);
    pieces.push(frame.head);
    for (message, prefix) in messages.into_iter().zip(&prefixes) {
        pieces.push(rest.split_to(prefix.len()));
        pieces.push(message);
    }
    pieces.push(frame.tail);
    Ok(pieces)
}

fn list_tree(
    kind: &Kind,
    listed: &Listed,
    metadata: Value,
    transform: Transform,
    include: IncludeObject,
) -> Result<Value, StatusError> {
    Ok(match transform {
        Transform::Table => {
            let objects = listed.entries.iter().map(|e| Cow::Owned(served(kind, e)));
            let mut tree = table::of(kind, objects, include, true);
            tree["metadata"] = metadata;
            tree
        }
        Transform::Metadata => {
            let items: Result<Vec<Value>, _> = listed
                .entries
                .iter()
                .map(|e| Ok(json!({"metadata": serde_json::from_str::<Value>(metadata_of(e)?.get()).map_err(failed)?})))
                .collect();
            let kind = "PartialObjectMetadataList";
            json!({"kind": kind, "apiVersion": METADATA_VERSION, "metadata": metadata, "items": items?})
        }
        Transform::None => {
            let items: Vec<Value> = listed.entries.iter().map(|e| served(kind, e)).collect();
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": items})
        }
    })
}

/// Encodes watch events in one form.
pub struct EventEncoder {
    pub kind: Arc<Kind>,
    pub form: Form,
    pub include: IncludeObject,
}

impl EventEncoder {
    fn form_id(&self) -> u8 {
        let encoding = match self.form.encoding {
            Encoding::Json => 0,
            Encoding::Yaml => 1,
            Encoding::Protobuf => 2,
        };
        let transform = match self.form.transform {
            Transform::None => 0,
            Transform::Metadata => 4,
            Transform::Table => 8,
        };
        encoding | transform
    }

    /// The bytes of one event as this watcher sees it; made once for all watchers that see it the same way.
    pub fn event(&self, event: &Event, event_type: EventType) -> Bytes {
        let plain = self.form == Form { encoding: Encoding::Json, transform: Transform::None };
        if plain && self.kind.conversion == Conversion::Same && event_type == event.event_type {
            return event.line.clone();
        }
        let key = EncodingKey { form: self.form_id(), version: self.kind.version_index, event_type };
        event.encoded(key, || {
            let left_the_selector =
                event_type == EventType::Deleted && event.event_type != EventType::Deleted;
            match (&event.previous, left_the_selector, &self.kind.storage) {
                (Some(previous), true, Some(storage)) => {
                    let last = Arc::new(storage.cache.last_state(previous, event.revision));
                    self.frame(event_type.as_str(), &last)
                }
                _ => self.frame(event_type.as_str(), &event.entry),
            }
        })
    }

    /// An object that was there before the watch began.
    pub fn initial(&self, entry: &Arc<Entry>) -> Bytes {
        self.frame(EventType::Added.as_str(), entry)
    }

    /// One framed event around an object.
    fn frame(&self, event_type: &str, entry: &Arc<Entry>) -> Bytes {
        let mut pieces = Pieces::default();
        if let Err(error) = object(&mut pieces, &self.kind, entry, self.form, self.include) {
            return self.status("ERROR", &error.to_value());
        }
        self.enclose(event_type, &pieces.concat())
    }

    fn enclose(&self, event_type: &str, object: &[u8]) -> Bytes {
        match self.form.encoding {
            Encoding::Protobuf => codec::encode_watch_event(event_type, object).into(),
            _ => layout::event_line(event_type, object),
        }
    }

    /// A bookmark at a revision; the first one after the initial objects says so.
    pub fn bookmark(&self, revision: i64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, api_version) = match self.form.transform {
            Transform::None => (self.kind.kind.clone(), self.kind.api_version()),
            Transform::Metadata => ("PartialObjectMetadata".to_owned(), METADATA_VERSION.to_owned()),
            Transform::Table => {
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": METADATA_VERSION, "metadata": metadata});
                let rows = json!([{"cells": [], "object": object}]);
                let tree = json!({"kind": "Table", "apiVersion": METADATA_VERSION, "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": null, "rows": rows});
                return self.status("BOOKMARK", &tree);
            }
        };
        self.status("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))
    }

    /// An event around a tree.
    pub fn status(&self, event_type: &str, tree: &Value) -> Bytes {
        match value(tree, self.form.encoding) {
            Ok(bytes) => self.enclose(event_type, &bytes),
            Err(_) => layout::event_line(event_type, tree.to_string().as_bytes()),
        }
    }
}
