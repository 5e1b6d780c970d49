//! How an object lies in bytes: JSON with `kind`, `apiVersion` and `metadata` first, in that order.
//!
//! The fixed head makes three things splices instead of parses: putting the store's revision into
//! `metadata.resourceVersion`, leaving out kind and apiVersion inside lists (as upstream's typed lists do), and serving
//! a custom resource under another version. Stored bytes never hold a resourceVersion. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::Value;

/// What stands between the head and the rest of the metadata in a served object.
const REVISION_KEY: &[u8] = b"\"resourceVersion\":\"";
/// Room for the framing of a watch event around an object.
const EVENT_FRAME_LEN: usize = 48;

/// The fixed head of one kind at its storage version.
#[derive(Clone, Debug)]
pub struct Layout {
    pub kind: String,
    pub api_version: String,
    /// `{"kind":"K","apiVersion":"V",`
    lead: Vec<u8>,
    /// `lead` and `"metadata":{`.
    head: Vec<u8>,
}

impl Layout {
    pub fn new(kind: &str, api_version: &str) -> Self {
        let lead = lead(kind, api_version);
        let mut head = lead.clone();
        head.extend_from_slice(b"\"metadata\":{");
        Self { kind: kind.to_owned(), api_version: api_version.to_owned(), lead, head }
    }

    /// Whether the bytes can be served by splicing.
    pub fn fits(&self, stored: &[u8]) -> bool {
        stored.starts_with(&self.head) && matches!(stored.get(self.head.len()), Some(b'"' | b'}'))
    }

    /// The object's bytes for the store: fixed head, no resourceVersion, no selfLink.
    pub fn encode_stored(&self, object: &Value) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.head);
        if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
            let fields = metadata.iter().filter(|(k, _)| *k != "resourceVersion" && *k != "selfLink");
            write_fields(&mut out, fields);
        }
        out.push(b'}');
        let rest = object.as_object().into_iter().flatten();
        let rest: Vec<_> =
            rest.filter(|(k, _)| !matches!(k.as_str(), "kind" | "apiVersion" | "metadata")).collect();
        if !rest.is_empty() {
            out.push(b',');
            write_fields(&mut out, rest.into_iter());
        }
        out.push(b'}');
        out
    }

    /// The served object: the stored bytes with the revision put in. The stored bytes must fit.
    pub fn served(&self, stored: &[u8], revision: i64) -> Bytes {
        let mut out = BytesMut::with_capacity(stored.len() + 40);
        self.put_served(&mut out, stored, revision);
        out.freeze()
    }

    /// A JSON watch event and, as a slice of the same buffer, the served object in it.
    pub fn served_event(&self, event_type: &str, stored: &[u8], revision: i64) -> (Bytes, Bytes) {
        let mut out = BytesMut::with_capacity(stored.len() + 40 + EVENT_FRAME_LEN);
        put_event_open(&mut out, event_type);
        let start = out.len();
        self.put_served(&mut out, stored, revision);
        let end = out.len();
        out.put_slice(b"}\n");
        let line = out.freeze();
        let object = line.slice(start..end);
        (line, object)
    }

    fn put_served(&self, out: &mut BytesMut, stored: &[u8], revision: i64) {
        out.put_slice(&self.head);
        out.put_slice(REVISION_KEY);
        out.put_slice(revision.to_string().as_bytes());
        let rest = &stored[self.head.len()..];
        // Only what somebody else put into the store has no metadata at all.
        out.put_slice(if rest.starts_with(b"}") { &b"\""[..] } else { b"\"," });
        out.put_slice(rest);
    }

    /// The stored form of a served object.
    pub fn unserve(&self, served: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(served.len());
        out.extend_from_slice(&self.head);
        let after_key = self.head.len() + REVISION_KEY.len();
        let digits = served[after_key..].iter().position(|b| *b == b'"').unwrap_or(0);
        let rest = &served[after_key + digits + 1..];
        out.extend_from_slice(rest.strip_prefix(b",").unwrap_or(rest));
        out
    }

    /// Where a served object's bytes start when kind and apiVersion are left out; a `{` goes before them.
    pub fn lead_len(&self) -> usize {
        self.lead.len()
    }
}

/// The lead of the kind at any version, for serving one version's bytes as another's.
pub fn lead(kind: &str, api_version: &str) -> Vec<u8> {
    format!("{{\"kind\":{},\"apiVersion\":{},", Value::from(kind), Value::from(api_version)).into_bytes()
}

/// Frames an object that is already encoded as a JSON watch event.
pub fn event_line(event_type: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + EVENT_FRAME_LEN);
    put_event_open(&mut out, event_type);
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}

fn put_event_open(out: &mut BytesMut, event_type: &str) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event_type.as_bytes());
    out.put_slice(b"\",\"object\":");
}

fn write_fields<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    for (i, (key, value)) in fields.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        // Writing JSON into memory cannot fail: map keys are strings.
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        let _ = serde_json::to_writer(&mut *out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","resourceVersion":"7"},"spec":{"nodeName":"n"}})
    }

    #[test]
    fn stored_bytes_have_the_head_and_no_revision() {
        let layout = Layout::new("Pod", "v1");
        let stored = layout.encode_stored(&pod());
        assert!(layout.fits(&stored));
        let expected = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"nodeName":"n"}}"#;
        assert_eq!(String::from_utf8_lossy(&stored), expected);
    }

    #[test]
    fn serving_and_unserving_are_inverse() {
        let layout = Layout::new("Pod", "v1");
        let stored = layout.encode_stored(&pod());
        let served = layout.served(&stored, 42);
        let value: Value = serde_json::from_slice(&served).expect("served JSON");
        assert_eq!(value["metadata"]["resourceVersion"], "42");
        assert_eq!(layout.unserve(&served), stored);
    }

    #[test]
    fn event_and_object_share_one_buffer() {
        let layout = Layout::new("Pod", "v1");
        let (line, object) = layout.served_event("ADDED", &layout.encode_stored(&pod()), 3);
        let event: Value = serde_json::from_slice(&line).expect("event JSON");
        assert_eq!(event["object"], serde_json::from_slice::<Value>(&object).expect("object JSON"));
        assert_eq!(event["type"], "ADDED");
    }
}
