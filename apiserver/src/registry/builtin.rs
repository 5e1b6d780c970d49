//! Puts the built-in resources into the catalog: table rows, schemas, caches, hooks.

use std::sync::Arc;

use machinery::resources::{Resource, key_prefix, resources};
use machinery::{codec, json, schema};
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::Registry;
use super::facts::Facts;
use super::kind::{HooksOf, Kind, NoHooks, PathSegmentNames, Storage};
use super::served::Served;
use crate::cache::CacheSpec;
use crate::cache::hub::REGISTRY;
use crate::cache::layout::Layout;
use crate::cache::resource::Normalise;
use crate::contract::KindHooks;
use crate::crd;
use crate::crd::hooks::{DefinitionHooks, DefinitionStatusHooks};
use crate::kinds::Kinds;

/// Resources whose objects stay parsed: permission checks, admission and allocation read them with most requests.
const KEEP_PARSED: &[(&str, &str)] = &[
    ("", "limitranges"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("networking.k8s.io", "ipaddresses"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "storageclasses"),
];

/// The group, resource and version that holds the objects of a served resource.
fn stored_as(row: &Resource) -> (&'static str, &'static str, &'static str) {
    match (row.group, row.resource) {
        ("events.k8s.io", "events") => ("", "v1", "events"),
        ("autoscaling", "horizontalpodautoscalers") => ("autoscaling", "v2", "horizontalpodautoscalers"),
        _ => (row.group, "v1", row.resource),
    }
}

fn is_stored(row: &Resource) -> bool {
    row.has_verb("list") && row.resource != "componentstatuses"
}

/// Whether there are built-in objects that are stored as this group's resource.
pub fn is_stored_as(group: &str, resource: &str) -> bool {
    let fits = |row: &&Resource| is_stored(row) && row.served_by_default();
    resources().iter().filter(fits).any(|row| {
        let (stored_group, _, stored) = stored_as(row);
        (stored_group, stored) == (group, resource)
    })
}

impl Registry {
    /// Serves every generally available built-in resource that is wanted.
    pub fn install_builtin(&self, kinds: &Arc<Kinds>, wanted: &Served) {
        let mut storages: FxHashMap<(&str, &str), Arc<Storage>> = FxHashMap::default();
        let mut served = Vec::new();
        for row in resources().iter().filter(|r| wanted.has(r)) {
            let Some(schema) = schema::for_kind(row.group, row.version, row.kind) else {
                tracing::warn!(row.group, row.version, row.kind, "no schema; the resource is not served");
                continue;
            };
            let (group, version, resource) = stored_as(row);
            let facts = Arc::new(Facts::builtin(group, resource));
            let storage = is_stored(row).then(|| {
                let make = || self.builtin_storage(row, group, version, resource, &facts);
                storages.entry((group, resource)).or_insert_with(make).clone()
            });
            served.push(Arc::new(Kind::builtin(row, schema, storage, facts, hooks_of(kinds, row))));
        }
        self.catalog.set_builtin(served);
    }

    fn builtin_storage(
        &self,
        row: &Resource,
        group: &str,
        version: &str,
        resource: &str,
        facts: &Facts,
    ) -> Arc<Storage> {
        let api_version = machinery::resources::api_version(group, version);
        let prefix = key_prefix(group, resource);
        let prefix = format!("{}/", prefix.strip_prefix(REGISTRY).unwrap_or(&prefix));
        let layout = Layout::new(row.kind, &api_version);
        let indexed = facts.indexed_field.and_then(|name| facts.fields.iter().position(|f| f.name == name));
        let spec = CacheSpec {
            prefix,
            namespaced: row.namespaced,
            normalise: normalise(layout.clone()),
            on_read: None,
            layout,
            fields: facts.fields.clone(),
            indexed_slot: indexed,
            keep_parsed: KEEP_PARSED.contains(&(group, resource)),
        };
        let place = self.places.of(group, resource);
        Arc::new(Storage {
            group: group.to_owned(),
            resource: resource.to_owned(),
            kind: row.kind.to_owned(),
            api_version,
            namespaced: row.namespaced,
            shape: 0,
            cache: place.hub.add(spec),
            place,
        })
    }
}

fn hooks_of(kinds: &Arc<Kinds>, row: &'static Resource) -> HooksOf {
    let kinds = kinds.clone();
    let none: Arc<dyn KindHooks> = match row.group {
        "rbac.authorization.k8s.io" => Arc::new(PathSegmentNames),
        _ => Arc::new(NoHooks),
    };
    let is_definition = row.group == crd::GROUP && row.resource == crd::RESOURCE;
    Arc::new(move |subresource| {
        if is_definition {
            return match subresource {
                "" => Arc::new(DefinitionHooks) as Arc<dyn KindHooks>,
                _ => Arc::new(DefinitionStatusHooks),
            };
        }
        kinds.hooks(row.group, row.resource, subresource).unwrap_or_else(|| none.clone())
    })
}

/// Reads bytes that another server wrote: protobuf, or JSON in any order.
pub fn normalise(layout: Layout) -> Normalise {
    Arc::new(move |stored| {
        let mut value = if codec::is_protobuf(stored) {
            codec::decode(stored).ok()?.value
        } else {
            json::parse(stored).ok()?.value
        };
        if !value.is_object() {
            return None;
        }
        if layout.kind != "Event" || value["apiVersion"] == "v1" {
            value["apiVersion"] = Value::from(layout.api_version.as_str());
        }
        value["kind"] = Value::from(layout.kind.as_str());
        Some(layout.encode_stored(&value))
    })
}
