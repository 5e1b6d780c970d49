//! Bodies and frames: JSON, YAML, protobuf, SPDY.

use machinery::{codec, json, schema, spdy, yaml};
use serde_json::Value;

use super::{POD, pod, texts};
use crate::cluster::WORLD;
use crate::entropy::Entropy;
use crate::generate;
use crate::mutate::Random;

pub fn json_examples() -> Vec<Vec<u8>> {
    texts(&[
        POD,
        "[1,2.5e3,\"\\u00e9\\n\"]",
        "{\"a\":{\"a\":{\"a\":{}}},\"a\":1}",
        "1E400",
        "40E110",
        "\"\\ud83d\\ude00\"",
    ])
}

/// JSON is read the same again after it was written; what is an object decodes as a pod or not.
pub fn json(bytes: &[u8]) {
    let Ok(parsed) = json::parse(bytes) else { return };
    let text = parsed.value.to_string();
    assert_eq!(json::parse(text.as_bytes()).map(|p| p.value).as_ref(), Ok(&parsed.value), "{text}");
    let schema = schema::for_kind("", "v1", "Pod").expect("a known kind");
    let mut object = parsed.value;
    if object.is_object() && schema::decode::decode(&schema, &mut object).is_ok() {
        schema::default::apply(&schema, &mut object);
    }
}

pub fn yaml_examples() -> Vec<Vec<u8>> {
    let mut all = texts(&[
        "apiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: a\n  labels: {x: 'y', z: \"w\"}\ndata:\n  <<: *m\n  block: |\n    a\n     b\n  folded: >-\n    c\n    d\n  n: 0x1F\n  list: [1, 2.5, yes, ~, !!str 3]\n",
        "a: &a [*a]\n",
        "- - - - x\n---\n- y\n",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n",
        "? {a: b}\n: c\n",
        "a: &a [[[[[[[[x]]]]]]]]\nb: &b [[[[[[[[*a]]]]]]]]\nc: [[[[[[[[*b]]]]]]]]\n",
        "&a [&b [&c [&d [x,x,x,x]]]]\n",
    ]);
    all.push(POD.as_bytes().to_vec());
    all
}

/// YAML is read or refused, and what is read nests no deeper than JSON may.
pub fn yaml(bytes: &[u8]) {
    if let Ok(parsed) = yaml::parse(bytes) {
        assert_eq!(json::too_deep(&parsed.value, json::DEPTH_MAX), None);
    }
    let _ = yaml::duplicate_keys(bytes);
}

pub fn protobuf_examples() -> Vec<Vec<u8>> {
    let encoded = codec::encode(&pod()).expect("a pod encodes");
    let event = codec::encode_watch_event("ADDED", &encoded);
    vec![encoded, event]
}

/// What was read can be written: nothing that cannot be represented comes out of the decoder.
pub fn protobuf(bytes: &[u8]) {
    let _ = codec::decode_watch_event(bytes);
    let Ok(decoded) = codec::decode(bytes) else { return };
    survives(&decoded.value);
}

fn survives(value: &Value) {
    if let Ok(again) = codec::encode(value) {
        let back = codec::decode(&again).map(|d| d.value).ok();
        assert_eq!(back.as_ref(), Some(value));
    }
}

/// One message of each kind: its number, then its protobuf form without the envelope.
pub fn kind_examples() -> Vec<Vec<u8>> {
    let mut random = Random::new(7);
    let message = |(number, kind): (usize, &std::sync::Arc<apiserver::registry::kind::Kind>)| {
        let choices = random.bytes(2000);
        let mut object = generate::object(&kind.schema, &mut Entropy::new(&choices));
        object["kind"] = kind.kind.as_str().into();
        object["apiVersion"] = kind.api_version().into();
        let encoded = codec::encode(&object).ok()?;
        let raw = codec::open(&encoded).ok()?.raw;
        Some([&[number as u8], raw].concat())
    };
    WORLD.kinds.iter().enumerate().filter_map(message).collect()
}

/// The first byte says which kind the rest is a message of.
pub fn protobuf_of_every_kind(bytes: &[u8]) {
    let Some((first, raw)) = bytes.split_first() else { return };
    let kind = &WORLD.kinds[usize::from(*first) % WORLD.kinds.len()];
    protobuf(&codec::envelope(&kind.api_version(), &kind.kind, raw));
}

pub fn spdy_examples() -> Vec<Vec<u8>> {
    let mut writer = spdy::Writer::default();
    let mut frames = writer.syn_stream(1, &[("streamtype", "error"), ("port", "80")], false);
    frames.extend(writer.syn_reply(1, false));
    frames.extend(spdy::Writer::data(1, b"abc", true));
    frames.extend(spdy::Writer::ping(1));
    frames.extend(spdy::Writer::window_update(1, 5));
    frames.extend(spdy::Writer::reset(1, 5));
    frames.extend(spdy::Writer::go_away(1));
    vec![frames]
}

/// Frames are the same however the bytes are cut.
pub fn spdy(bytes: &[u8]) {
    let whole = read_all(&mut [bytes].into_iter());
    let pieces = read_all(&mut bytes.chunks(3));
    assert_eq!(joined(whole), joined(pieces));
}

type Read = Vec<Result<spdy::Frame, String>>;

/// Parts of one frame's content as one.
fn joined(frames: Read) -> Read {
    let mut out: Read = Vec::new();
    for frame in frames {
        if let (
            Some(Ok(spdy::Frame::Data { stream, fin: fin @ false, content })),
            Ok(spdy::Frame::Data { stream: same, fin: last, content: more }),
        ) = (out.last_mut(), &frame)
            && stream == same
        {
            *content = [&content[..], &more[..]].concat().into();
            *fin = *last;
            continue;
        }
        out.push(frame);
    }
    out
}

fn read_all(pieces: &mut dyn Iterator<Item = &[u8]>) -> Read {
    let mut reader = spdy::Reader::default();
    let mut frames = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(Ok(frame)),
                Ok(None) => break,
                Err(error) => {
                    frames.push(Err(error.to_string()));
                    return frames;
                }
            }
        }
    }
    frames
}
