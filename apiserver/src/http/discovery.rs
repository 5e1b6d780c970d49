//! `/api` and `/apis`: what is served, aggregated into one document or level by level, with ETags.
//!
//! Documents are built when the catalog changes and shared until it changes again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderMap, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Response, StatusCode};
use machinery::resources::{api_version, priority};
use machinery::status::StatusError;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::body::Body;
use super::negotiate::parse_accept;
use super::resources::header;
use super::{Api, respond, routes};
use crate::metrics_api;
use crate::registry::catalog::Snapshot;
use crate::registry::kind::Kind;

/// Media type of the aggregated form.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

struct Document {
    value: Value,
    etag: String,
}

impl Document {
    fn new(value: Value) -> Self {
        let hash = Sha512::digest(value.to_string().as_bytes());
        Self { etag: format!("\"{}\"", hex::encode_upper(hash)), value }
    }
}

struct Built {
    generation: u64,
    /// Classic documents by path.
    classic: BTreeMap<String, Document>,
    /// Aggregated documents of `/api` and `/apis`.
    core: Document,
    groups: Document,
}

/// The documents of the newest catalog seen.
#[derive(Default)]
pub struct Discovery {
    built: ArcSwapOption<Built>,
}

impl Discovery {
    fn current(&self, api: &Api) -> Arc<Built> {
        let snapshot = api.registry.catalog.snapshot_arc();
        if let Some(built) = self.built.load_full().filter(|b| b.generation == snapshot.generation) {
            return built;
        }
        let built = Arc::new(build(&snapshot, &api.advertise));
        self.built.store(Some(built.clone()));
        built
    }

    /// Lets go of documents of an older state of the catalog.
    pub fn age(&self, served: &Snapshot) {
        if self.built.load().as_ref().is_some_and(|built| built.generation != served.generation) {
            self.built.store(None);
        }
    }

    /// Answers one discovery path.
    pub fn answer(&self, api: &Api, path: &str, headers: &HeaderMap) -> Result<Response<Body>, StatusError> {
        let built = self.current(api);
        let aggregated = wants_aggregated(header(headers, &ACCEPT).unwrap_or_default());
        if path == "/apis" && !api.serves_all() {
            // Whoever empties a namespace by it would leave the custom resources behind.
            return Err(api.unknown_path());
        }
        let (document, content_type) = match path {
            "/api" if aggregated => (&built.core, AGGREGATED),
            "/apis" if aggregated => (&built.groups, AGGREGATED),
            _ => (built.classic.get(path).ok_or_else(|| api.unknown_path())?, "application/json"),
        };
        let matches =
            header(headers, &IF_NONE_MATCH).is_some_and(|tags| tags.contains(document.etag.as_str()));
        let mut response = if matches {
            routes::code_only(StatusCode::NOT_MODIFIED)
        } else {
            respond::json(StatusCode::OK, &document.value)
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        if let Ok(etag) = HeaderValue::from_str(&document.etag) {
            headers.insert(ETAG, etag);
        }
        Ok(response)
    }
}

fn wants_aggregated(accept: &str) -> bool {
    for accepted in parse_accept(accept) {
        if accepted.media_type != "application/json" {
            continue;
        }
        match (accepted.param("as"), accepted.param("g"), accepted.param("v")) {
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return true,
            ("", ..) => return false,
            _ => {}
        }
    }
    false
}

/// A group's versions, best first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Arc<Kind>>)>,
}

fn groups(snapshot: &Snapshot) -> Vec<Group<'_>> {
    let mut all: Vec<Group<'_>> = snapshot
        .groups()
        .map(|(name, versions)| {
            let mut versions: Vec<_> =
                versions.iter().map(|(v, kinds)| (v.as_str(), kinds.values().collect())).collect();
            versions.sort_by_key(|(v, _): &(&str, Vec<_>)| (Reverse(priority(name, v).1), version_key(v)));
            Group { name, versions }
        })
        .collect();
    all.sort_by_key(|g| {
        let best = g.versions.first().map_or("", |(v, _)| v);
        (Reverse(priority(g.name, best).0), g.name)
    });
    all
}

/// Sorts `v2`, `v1`, `v1beta2`, `v1alpha1`, then anything else by name.
fn version_key(version: &str) -> (u8, Reverse<u32>, Reverse<u32>, String) {
    let other = (3, Reverse(0), Reverse(0), version.to_owned());
    let Some(rest) = version.strip_prefix('v') else { return other };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse() else { return other };
    let stage =
        |rank: u8, minor: &str| (rank, Reverse(major), Reverse(minor.parse().unwrap_or(0)), String::new());
    match &rest[end..] {
        "" => stage(0, "0"),
        tail if tail.starts_with("beta") => stage(1, &tail[4..]),
        tail if tail.starts_with("alpha") => stage(2, &tail[5..]),
        _ => other,
    }
}

fn build(snapshot: &Snapshot, advertise: &str) -> Built {
    let groups = groups(snapshot);
    let (core, named): (Vec<_>, Vec<_>) = groups.iter().partition(|g| g.name.is_empty());
    let mut classic = BTreeMap::new();
    let server = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": advertise}]);
    let versions = json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": server});
    classic.insert("/api".to_owned(), Document::new(versions));
    let mut list: Vec<Value> = named.iter().map(|g| classic_group(g, false)).collect();
    list.push(metrics_api::group(false));
    let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list});
    classic.insert("/apis".to_owned(), Document::new(list));
    for group in &groups {
        let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
        if !group.name.is_empty() {
            classic.insert(root.clone(), Document::new(classic_group(group, true)));
        }
        for (version, kinds) in &group.versions {
            let document = Document::new(classic_resources(group.name, version, kinds));
            classic.insert(format!("{root}/{version}"), document);
        }
    }
    let metrics = format!("/apis/{}", metrics_api::GROUP);
    classic.insert(format!("{metrics}/v1beta1"), Document::new(metrics_api::resources()));
    classic.insert(metrics, Document::new(metrics_api::group(true)));
    let mut all = aggregated(&named);
    if let Some(items) = all["items"].as_array_mut() {
        items.push(metrics_api::aggregated_group());
    }
    Built {
        generation: snapshot.generation,
        classic,
        core: Document::new(aggregated(&core)),
        groups: Document::new(all),
    }
}

fn classic_group(group: &Group<'_>, alone: bool) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(v, _)| json!({"groupVersion": api_version(group.name, v), "version": v}))
        .collect();
    let mut value = json!({"name": group.name, "preferredVersion": versions[0], "versions": versions});
    if alone {
        value["kind"] = "APIGroup".into();
        value["apiVersion"] = "v1".into();
    }
    value
}

fn classic_resources(group: &str, version: &str, kinds: &[&Arc<Kind>]) -> Value {
    let mut resources = Vec::new();
    for kind in kinds {
        let mut entry = json!({
            "name": kind.resource,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        put_names(&mut entry, kind);
        if let Some(storage) = &kind.storage {
            entry["storageVersionHash"] =
                storage_hash(&storage.group, &storage.api_version, &storage.kind).into();
        }
        resources.push(entry);
        for sub in &kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.resource, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (sub.group.as_str(), sub.version.as_str()) != (group, version) {
                entry["group"] = sub.group.as_str().into();
                entry["version"] = sub.version.as_str().into();
            }
            resources.push(entry);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": resources})
}

fn put_names(entry: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        entry["shortNames"] = kind.short_names.clone().into();
    }
    if !kind.categories.is_empty() {
        entry["categories"] = kind.categories.clone().into();
    }
}

fn storage_hash(group: &str, api_version: &str, kind: &str) -> String {
    use base64::Engine as _;
    let version = api_version.rsplit('/').next().unwrap_or_default();
    let hash = sha2::Sha256::digest(format!("{group}/{version}/{kind}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

fn aggregated(groups: &[&Group<'_>]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, kinds)| {
                    let resources: Vec<Value> = kinds.iter().map(|k| aggregated_resource(k)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut entry = json!({
        "resource": kind.resource,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    put_names(&mut entry, kind);
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                let response = json!({"group": s.group, "version": s.version, "kind": s.kind});
                json!({"subresource": s.name, "responseKind": response, "verbs": s.verbs})
            })
            .collect();
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_kubernetes_does() {
        let mut versions = vec!["v1alpha1", "foo", "v1", "v10", "v2beta1", "v1beta1", "v2"];
        versions.sort_by_key(|v| version_key(v));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "foo"]);
    }

    #[test]
    fn aggregation_is_asked_for() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert!(wants_aggregated(kubectl));
        assert!(!wants_aggregated("application/json"));
        assert!(!wants_aggregated(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        ));
    }
}
