//! `/openapi/v2` and `/openapi/v3`: documents built when first asked for and kept until the catalog changes or nobody
//! asks for them any more. The hashes that clients cache them by stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, IF_NONE_MATCH, LAST_MODIFIED, VARY,
};
use http::{HeaderValue, Response, StatusCode};
use machinery::openapi::{CustomSchema, Served, ServedSubresource, protobuf, v2_document, v3_document};
use machinery::resources::api_version;
use machinery::status::StatusError;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::body::{Body, Pieces};
use super::negotiate::{Encoding, parse_accept};
use super::resources::{accepts_gzip, header};
use super::{respond, routes, version};
use crate::registry::Registry;
use crate::registry::catalog::Snapshot;
use crate::registry::kind::Kind;
use crate::registry::options::Query;

/// Documents under a hash never change (upstream's header for hashed URLs).
const IMMUTABLE: &str = "public, immutable";

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        Self::of_bytes(value.to_string().into())
    }

    fn of_bytes(bytes: Bytes) -> Self {
        Self { hash: hex::encode_upper(Sha512::digest(&bytes)), bytes }
    }
}

/// A group-version's document: its hash stays, its bytes while they are asked for.
#[derive(Clone)]
struct Kept {
    hash: String,
    document: Option<Document>,
    /// Whether somebody has asked for it since [`Built::age`] was last called.
    is_used: bool,
}

/// The documents of one state of the catalog.
struct Built {
    generation: u64,
    served: Vec<Served>,
    /// Group-versions by their path below `/openapi/v3/`, built when asked for.
    v3: Mutex<BTreeMap<String, Kept>>,
    v2: Mutex<Option<Document>>,
    v2_protobuf: Mutex<Option<Document>>,
    /// Whether somebody has asked for version 2 since [`Built::age`] was last called.
    v2_is_used: AtomicBool,
}

/// Builds and keeps the documents.
#[derive(Default)]
pub struct OpenApi {
    built: ArcSwapOption<Built>,
}

fn served(kind: &Kind) -> Served {
    let subresource = |s: &crate::registry::kind::SubKind| ServedSubresource {
        name: s.name.clone(),
        group: s.group.clone(),
        version: s.version.clone(),
        kind: s.kind.clone(),
        verbs: s.verbs.clone(),
    };
    let custom = kind.custom.as_ref().map(|c| CustomSchema {
        schema: c.openapi.clone().unwrap_or_else(|| json!({"type": "object"})),
        preserve_unknown: c.preserve_unknown,
    });
    Served {
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: kind.resource.clone(),
        kind: kind.kind.clone(),
        list_kind: kind.list_kind.clone(),
        namespaced: kind.namespaced,
        verbs: kind.verbs.clone(),
        subresources: kind.subresources.iter().map(subresource).collect(),
        custom,
    }
}

fn path_of(group: &str, version: &str) -> String {
    let root = if group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", api_version(group, version))
}

impl Built {
    fn new(snapshot: &Snapshot) -> Self {
        Self::of(snapshot.generation, snapshot.kinds().map(|k| served(k)).collect())
    }

    fn of(generation: u64, served: Vec<Served>) -> Self {
        Self {
            generation,
            served,
            v3: Mutex::default(),
            v2: Mutex::default(),
            v2_protobuf: Mutex::default(),
            v2_is_used: AtomicBool::new(false),
        }
    }

    /// The same for a newer state; what has not changed keeps its document: one new definition does not rebuild the others.
    fn next(&self, snapshot: &Snapshot) -> Self {
        self.succeed(Self::new(snapshot))
    }

    fn succeed(&self, next: Self) -> Self {
        let (old_by_path, new_by_path) = (self.by_path(), next.by_path());
        let is_same = |path: &String| old_by_path.get(path) == new_by_path.get(path);
        let old = self.v3.lock();
        let kept =
            old.iter().filter(|(path, _)| is_same(path)).map(|(p, d)| (p.clone(), d.clone())).collect();
        drop(old);
        *next.v3.lock() = kept;
        next
    }

    fn by_path(&self) -> BTreeMap<String, Vec<&Served>> {
        let mut all: BTreeMap<String, Vec<&Served>> = BTreeMap::new();
        for served in &self.served {
            all.entry(path_of(&served.group, &served.version)).or_default().push(served);
        }
        all
    }

    fn group_versions(&self) -> BTreeMap<String, (&str, &str)> {
        self.served
            .iter()
            .map(|s| (path_of(&s.group, &s.version), (s.group.as_str(), s.version.as_str())))
            .collect()
    }

    fn v3(&self, path: &str) -> Option<Document> {
        if let Some(kept) = self.v3.lock().get_mut(path)
            && let Some(document) = &kept.document
        {
            kept.is_used = true;
            return Some(document.clone());
        }
        let (group, version) = *self.group_versions().get(path)?;
        let document = Document::new(&v3_document(&self.served, group, version));
        let kept = Kept { hash: document.hash.clone(), document: Some(document.clone()), is_used: true };
        self.v3.lock().insert(path.to_owned(), kept);
        Some(document)
    }

    fn v3_hash(&self, path: &str) -> Option<String> {
        let known = self.v3.lock().get(path).map(|kept| kept.hash.clone());
        known.or_else(|| Some(self.v3(path)?.hash))
    }

    fn v2(&self) -> Document {
        let mut slot = self.v2.lock();
        slot.get_or_insert_with(|| Document::new(&v2_document(&self.served, version::GIT_VERSION))).clone()
    }

    /// Asked for by few, so it is made from the document anew and not kept beside it as a tree.
    fn v2_protobuf(&self) -> Document {
        let mut slot = self.v2_protobuf.lock();
        slot.get_or_insert_with(|| {
            let tree = v2_document(&self.served, version::GIT_VERSION);
            Document::of_bytes(protobuf::encode(&tree).into())
        })
        .clone()
    }

    /// Where each group-version's document is, with the hash that clients cache it by.
    fn index(&self) -> Document {
        let mut paths = serde_json::Map::new();
        for path in self.group_versions().into_keys() {
            if let Some(hash) = self.v3_hash(&path) {
                let url = format!("/openapi/v3/{path}?hash={hash}");
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        Document::new(&json!({"paths": paths}))
    }

    /// Lets go of the documents that nobody has asked for since the last call. Version 2 is by far the largest; those of
    /// all group-versions are made for their hashes, and clients then ask for few of them.
    fn age(&self) {
        if !self.v2_is_used.swap(false, Ordering::Relaxed) {
            *self.v2.lock() = None;
            *self.v2_protobuf.lock() = None;
        }
        for kept in self.v3.lock().values_mut() {
            kept.document.take_if(|_| !kept.is_used);
            kept.is_used = false;
        }
    }
}

impl OpenApi {
    fn current(&self, registry: &Registry) -> Arc<Built> {
        let snapshot = registry.catalog.snapshot_arc();
        if let Some(built) = self.built.load_full().filter(|b| b.generation == snapshot.generation) {
            return built;
        }
        self.replace(&snapshot)
    }

    fn replace(&self, snapshot: &Snapshot) -> Arc<Built> {
        let old = self.built.load_full();
        let next = Arc::new(old.map_or_else(|| Built::new(snapshot), |old| old.next(snapshot)));
        self.built.store(Some(next.clone()));
        next
    }

    /// Lets go of documents of kinds that are no longer served, and of those that nobody has asked for since the last call.
    pub fn age(&self, served: &Snapshot) {
        let Some(built) = self.built.load_full() else { return };
        let built = if built.generation == served.generation { built } else { self.replace(served) };
        built.age();
    }

    /// Answers one path below `/openapi`.
    pub fn answer(
        &self,
        registry: &Registry,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, StatusError> {
        let built = self.current(registry);
        match path {
            "/openapi/v2" => {
                built.v2_is_used.store(true, Ordering::Relaxed);
                if wants_protobuf(headers)? {
                    let mut response = document(&built.v2_protobuf(), headers);
                    let content_type = HeaderValue::from_static(protobuf::MEDIA_TYPE);
                    response.headers_mut().insert(CONTENT_TYPE, content_type);
                    return Ok(response);
                }
                Ok(document(&built.v2(), headers))
            }
            "/openapi/v3" => Ok(document(&built.index(), headers)),
            _ => {
                let name = path.strip_prefix("/openapi/v3/").ok_or_else(StatusError::not_found_path)?;
                let found = built.v3(name).ok_or_else(StatusError::not_found_path)?;
                Ok(hashed(name, &found, query, headers))
            }
        }
    }
}

/// Which form of version 2 the client prefers; neither is 406.
fn wants_protobuf(headers: &HeaderMap) -> Result<bool, StatusError> {
    // Upstream has renamed the type; clients send the old name, and spell it with an @ or a dot.
    let is_protobuf = |t: &str| t.starts_with("application/com.github.proto-openapi.spec.v2");
    let is_json = |t: &str| matches!(t, "application/json" | "*/*" | "application/*");
    let accept = header(headers, &ACCEPT).filter(|text| !text.trim().is_empty()).unwrap_or("*/*");
    let wanted = parse_accept(accept).iter().find_map(|a| match a.media_type {
        t if is_protobuf(t) => Some(true),
        t if is_json(t) => Some(false),
        _ => None,
    });
    wanted.ok_or_else(|| StatusError::not_acceptable(&["application/json", protobuf::MEDIA_TYPE]))
}

fn document(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let mut response = if header(headers, &IF_NONE_MATCH).is_some_and(|tags| tags.contains(&tag)) {
        routes::code_only(StatusCode::NOT_MODIFIED)
    } else {
        let mut pieces = Pieces::default();
        pieces.push(document.bytes.clone());
        respond::pieces(StatusCode::OK, pieces, Encoding::Json, accepts_gzip(headers))
    };
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    out.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    response
}

/// A document under its hash may be cached for ever; under another hash the client is sent to the right one.
fn hashed(name: &str, found: &Document, query: &Query, headers: &HeaderMap) -> Response<Body> {
    match query.get("hash") {
        Some(hash) if hash != found.hash => {
            let mut response = routes::code_only(StatusCode::MOVED_PERMANENTLY);
            let location = format!("/openapi/v3/{name}?hash={}", found.hash);
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(http::header::LOCATION, location);
            }
            response
        }
        given => {
            let mut response = document(found, headers);
            if given.is_some() {
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
                response
                    .headers_mut()
                    .insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
                response.headers_mut().remove(LAST_MODIFIED);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(resource: &str, kind: &str) -> Served {
        Served {
            group: "example.com".to_owned(),
            version: format!("v{}", resource.len()),
            resource: resource.to_owned(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            namespaced: true,
            verbs: vec!["get".to_owned()],
            subresources: Vec::new(),
            custom: Some(CustomSchema { schema: json!({"type": "object"}), preserve_unknown: false }),
        }
    }

    /// Bytes of version 3 that are kept, and of version 2.
    fn held(built: &Built) -> (usize, usize) {
        let v3 = built.v3.lock();
        let v3 = v3.values().filter_map(|kept| kept.document.as_ref()).map(|document| document.bytes.len());
        let v2 =
            [&built.v2, &built.v2_protobuf].map(|slot| slot.lock().as_ref().map_or(0, |d| d.bytes.len()));
        (v3.sum(), v2.iter().sum())
    }

    #[test]
    fn what_nobody_asks_for_goes_and_comes_again_under_its_hash() {
        let built = Built::of(1, vec![served("cups", "Cup"), served("spoons", "Spoon")]);
        let index = built.index();
        let (cups, spoons) = ("apis/example.com/v4", "apis/example.com/v6");
        let first = built.v3(cups).expect("a document");
        assert!(!built.v2().bytes.is_empty() && !built.v2_protobuf().bytes.is_empty());
        built.v2_is_used.store(true, Ordering::Relaxed);
        built.age();
        assert!(held(&built).0 > 0 && held(&built).1 > 0, "all of it was asked for");
        built.v3(cups).expect("a document");
        built.age();
        assert_eq!(held(&built), (first.bytes.len(), 0), "cups alone were asked for since");
        built.age();
        assert_eq!(held(&built), (0, 0));
        assert_eq!(built.index().hash, index.hash);
        assert_eq!(held(&built), (0, 0), "the index needs the hashes alone");
        assert_eq!(built.v3(cups).map(|d| (d.hash, d.bytes)), Some((first.hash, first.bytes)));
        assert!(
            index.bytes.windows(64).any(|w| built.v3_hash(spoons).is_some_and(|h| h.as_bytes()[..64] == *w))
        );
    }

    #[test]
    fn a_new_state_keeps_the_hashes_of_what_has_not_changed_and_drops_what_went() {
        let mut built = Built::of(1, vec![served("cups", "Cup"), served("spoons", "Spoon")]);
        built.index();
        built.age();
        built.age();
        let next = built.succeed(Built::of(2, vec![served("cups", "Cup")]));
        assert_eq!(next.v3.lock().keys().collect::<Vec<_>>(), ["apis/example.com/v4"]);
        built = built.succeed(Built::of(3, vec![served("cups", "Mug")]));
        assert!(built.v3.lock().is_empty());
        assert_ne!(next.index().hash, built.index().hash);
    }
}
