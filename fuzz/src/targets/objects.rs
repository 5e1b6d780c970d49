//! Whole requests to write an object of any built-in kind: decode, default, prepare, check, print, encode.

use std::borrow::Cow;
use std::sync::Arc;

use apiserver::registry::builtin::normalise;
use apiserver::registry::decode::{self, BodyFormat, Expected};
use apiserver::registry::kind::Kind;
use apiserver::registry::options::{FieldValidation, WriteOptions};
use apiserver::table::{self, IncludeObject};
use machinery::codec;
use serde_json::{Value, json};

use crate::cluster::{WORLD, context};
use crate::entropy::Entropy;
use crate::generate;
use crate::mutate::Random;

const REVISION_ON_CREATE: &str = "resourceVersion should not be set on objects to be created";

fn kind(number: u8) -> &'static Arc<Kind> {
    &WORLD.kinds[usize::from(number) % WORLD.kinds.len()]
}

/// A body of each kind behind the kind's number.
pub fn body_examples() -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    let body = |(number, kind): (usize, &Arc<Kind>)| {
        let choices = random.bytes(1500);
        let object = generate::object(&kind.schema, &mut Entropy::new(&choices));
        [&[number as u8], object.to_string().as_bytes()].concat()
    };
    WORLD.kinds.iter().enumerate().map(body).collect()
}

/// The first byte chooses the kind, the rest is the JSON body of a create.
pub fn bodies(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let kind = kind(*first);
    let ctx = context(kind);
    let Ok(object) = decode::object(&ctx, &Expected::of(kind), body, BodyFormat::Json, FieldValidation::Warn)
    else {
        return;
    };
    create(kind, object);
}

/// Bytes that choices are read from.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut random = Random::new(5);
    let seed = |number: usize| [&[number as u8][..], &random.bytes(3000)].concat();
    (0..WORLD.kinds.len()).map(seed).collect()
}

/// An object of every shape its schema allows, created, updated from another one, and printed.
pub fn generated(bytes: &[u8]) {
    let Some((first, choices)) = bytes.split_first() else { return };
    let kind = kind(*first);
    let mut entropy = Entropy::new(choices);
    let (old, new) = (well_formed(kind, &mut entropy), well_formed(kind, &mut entropy));
    let (Some(old), Some(new)) = (old, new) else { return };
    update(kind, &old, &new);
    create(kind, new);
}

/// Decoded and defaulted as a request's body is.
fn well_formed(kind: &Kind, entropy: &mut Entropy<'_>) -> Option<Value> {
    let mut object = generate::object(&kind.schema, entropy);
    let map = object.as_object_mut()?;
    map.remove("apiVersion");
    map.remove("kind");
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if !entropy.chance(40) && metadata.is_object() {
        metadata["name"] = "a".into();
        if kind.namespaced {
            metadata["namespace"] = "default".into();
        }
    }
    let body = object.to_string();
    decode::object(
        &context(kind),
        &Expected::of(kind),
        body.as_bytes(),
        BodyFormat::Json,
        FieldValidation::Warn,
    )
    .ok()
}

/// The pipeline to the write, which the store refuses; what is refused before is the client's mistake.
fn create(kind: &Kind, object: Value) {
    let ctx = context(kind);
    let _ = table::of(kind, std::iter::once(Cow::Borrowed(&object)), IncludeObject::Object, true);
    if let Ok(encoded) = codec::encode(&object) {
        assert!(codec::decode(&encoded).is_ok(), "{} is written as what cannot be read", kind.kind);
    }
    let options = WriteOptions { manager: "fuzz".into(), ..WriteOptions::default() };
    let written = WORLD.runtime.block_on(WORLD.registry.create(&ctx, kind, object, &options));
    if let Err(error) = written {
        // The one mistake of clients that upstream answers with 500.
        let known = error.message().contains(REVISION_ON_CREATE);
        assert!(error.code() != 500 || known, "{}: {}", kind.kind, error.message());
    }
}

fn update(kind: &Kind, old: &Value, new: &Value) {
    let ctx = context(kind);
    let names =
        kind.subresources.iter().map(|s| s.name.as_str()).filter(|n| matches!(*n, "status" | "resize"));
    for subresource in std::iter::once("").chain(names) {
        let (hooks, mut new) = (kind.hooks(subresource), new.clone());
        hooks.prepare_for_update(&ctx, &mut new, old);
        let _ = hooks.validate_update(&ctx, &new, old);
    }
    let _ = kind.hooks("").grace_period(&ctx, old, None);
}

pub fn stored_examples() -> Vec<Vec<u8>> {
    let mut all = body_examples();
    all.push(b"\0{}".to_vec());
    all.extend(super::wire::protobuf_examples().into_iter().map(|bytes| [&[0][..], &bytes].concat()));
    all
}

/// What another server left in the store: taken into the cache, or left out.
pub fn stored(bytes: &[u8]) {
    let Some((first, stored)) = bytes.split_first() else { return };
    let kind = kind(*first);
    let Some(storage) = &kind.storage else { return };
    let layout = apiserver::cache::layout::Layout::new(&storage.kind, &storage.api_version);
    let _ = layout.fits(stored);
    if let Some(own) = normalise(layout.clone())(stored) {
        assert!(layout.fits(&own), "{}", String::from_utf8_lossy(&own));
        let _ = apiserver::cache::extract::Extractor::new(&kind.facts.fields).extract(&own);
        let served = layout.served(&own, 7);
        let read: Value = serde_json::from_slice(&served).expect("what is served is JSON");
        assert_eq!(read["metadata"]["resourceVersion"], "7");
        assert_eq!(layout.unserve(&served), own);
    }
}
