//! A definition as served kinds.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use machinery::resources::{api_version, custom_key_prefix};
use machinery::schema::{Schema, default, from_crd, prune};
use machinery::status::FieldError;
use rustc_hash::FxHasher;
use serde_json::{Value, json};

use crate::cache::CacheSpec;
use crate::cache::extract::FieldDef;
use crate::cache::hub::REGISTRY;
use crate::cache::layout::{Layout, lead};
use crate::cache::resource::Normalise;
use crate::contract::KindHooks;
use crate::registry::builtin::normalise;
use crate::registry::convert::Conversion;
use crate::registry::facts::Facts;
use crate::registry::kind::{Column, CustomFacts, Kind, NoHooks, ScalePaths, Storage, SubKind};
use crate::registry::{Registry, meta};

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A simple JSON path (`.spec.replicas`) as keys.
fn keys(path: &str) -> Vec<String> {
    path.split('.').filter(|k| !k.is_empty()).map(str::to_owned).collect()
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

/// The kinds of every served version.
pub fn kinds(registry: &Registry, definition: &Value) -> Result<Vec<Arc<Kind>>, Vec<FieldError>> {
    let fields = selectable_fields(definition);
    let facts = Arc::new(Facts::custom(fields.clone()));
    let storage = storage(registry, definition, fields)?;
    let served = versions(definition).filter(|v| v["served"] == true).enumerate();
    served.map(|(i, version)| kind(definition, version, i, &storage, &facts).map(Arc::new)).collect()
}

/// The fields that any version makes selectable; they lie at the same path in all of them.
fn selectable_fields(definition: &Value) -> Vec<FieldDef> {
    let mut fields: Vec<FieldDef> = Vec::new();
    for version in versions(definition) {
        for field in version["selectableFields"].as_array().into_iter().flatten() {
            let path = text(field, "jsonPath").trim_start_matches('.');
            if fields.iter().all(|f| f.name != path) {
                fields.push(FieldDef::new(path, path, ""));
            }
        }
    }
    fields
}

/// The storage: the one in use when nothing about it changes, so that its watchers stay.
fn storage(
    registry: &Registry,
    definition: &Value,
    fields: Vec<FieldDef>,
) -> Result<Arc<Storage>, Vec<FieldError>> {
    let spec = &definition["spec"];
    let (group, names) = (text(spec, "group"), &spec["names"]);
    let stored = versions(definition).find(|v| v["storage"] == true).unwrap_or(&Value::Null);
    let api_version = api_version(group, text(stored, "name"));
    let shape = shape(definition, stored);
    let namespaced = spec["scope"] == "Namespaced";
    if let Some(old) = registry.catalog.custom_storage(meta::name(definition))
        && old.api_version == api_version
        && old.kind == text(names, "kind")
        && old.namespaced == namespaced
        && old.cache.spec.fields == fields
        && old.shape == shape
    {
        return Ok(old);
    }
    let prefix = custom_key_prefix(group, text(names, "plural"));
    let layout = Layout::new(text(names, "kind"), &api_version);
    let spec = CacheSpec {
        prefix: format!("{}/", prefix.strip_prefix(REGISTRY).unwrap_or(&prefix)),
        namespaced,
        normalise: normalise(layout.clone()),
        on_read: Some(on_read(schema(definition, stored)?, layout.clone())),
        layout,
        fields,
        indexed_slot: None,
        keep_parsed: false,
    };
    let place = registry.home();
    Ok(Arc::new(Storage {
        group: group.to_owned(),
        resource: text(names, "plural").to_owned(),
        kind: text(names, "kind").to_owned(),
        api_version,
        namespaced,
        shape,
        cache: place.hub.add(spec),
        place,
    }))
}

/// What objects of a version must look like.
fn schema(definition: &Value, version: &Value) -> Result<Schema, Vec<FieldError>> {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let openapi = version["schema"].get("openAPIV3Schema");
    from_crd(openapi.unwrap_or(&open), definition["spec"]["preserveUnknownFields"] == true)
}

/// A number that changes with the schema that stored objects are read by.
fn shape(definition: &Value, stored: &Value) -> u64 {
    let mut hasher = FxHasher::default();
    stored["schema"].to_string().hash(&mut hasher);
    (definition["spec"]["preserveUnknownFields"] == true).hash(&mut hasher);
    hasher.finish()
}

/// Objects that were stored under an older schema get what today's defaults say and lose what it does not know.
fn on_read(schema: Schema, layout: Layout) -> Normalise {
    Arc::new(move |stored| {
        let mut value: Value = serde_json::from_slice(stored).ok()?;
        prune::prune(&schema, &mut value);
        default::apply(&schema, &mut value);
        let read = layout.encode_stored(&value);
        (read != stored).then_some(read)
    })
}

fn kind(
    definition: &Value,
    version: &Value,
    index: usize,
    storage: &Arc<Storage>,
    facts: &Arc<Facts>,
) -> Result<Kind, Vec<FieldError>> {
    let spec = &definition["spec"];
    let (group, names, name) = (text(spec, "group"), &spec["names"], text(version, "name"));
    let openapi = version["schema"].get("openAPIV3Schema");
    let schema = schema(definition, version)?;
    let api_version = api_version(group, name);
    let is_storage = api_version == storage.api_version;
    let hooks: Arc<dyn KindHooks> = Arc::new(NoHooks);
    Ok(Kind {
        group: group.to_owned(),
        version: name.to_owned(),
        resource: text(names, "plural").to_owned(),
        singular: text(names, "singular").to_owned(),
        kind: text(names, "kind").to_owned(),
        list_kind: text(names, "listKind").to_owned(),
        namespaced: storage.namespaced,
        short_names: words(&names["shortNames"]),
        categories: words(&names["categories"]),
        verbs: VERBS.map(str::to_owned).to_vec(),
        subresources: subresources(group, name, text(names, "kind"), &version["subresources"]),
        schema,
        storage: Some(storage.clone()),
        conversion: if is_storage { Conversion::Same } else { Conversion::ApiVersion },
        hooks: Arc::new(move |_| hooks.clone()),
        facts: facts.clone(),
        custom: Some(custom(definition, version, openapi)),
        lead: lead(text(names, "kind"), &api_version),
        version_index: if is_storage { 0 } else { u8::try_from(index + 1).unwrap_or(u8::MAX) },
    })
}

fn subresources(group: &str, version: &str, kind: &str, declared: &Value) -> Vec<SubKind> {
    let verbs = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    let mut all = Vec::new();
    if declared.get("status").is_some_and(|s| !s.is_null()) {
        let (group, version, kind) = (group.to_owned(), version.to_owned(), kind.to_owned());
        all.push(SubKind { name: "status".to_owned(), group, version, kind, verbs: verbs() });
    }
    if declared.get("scale").is_some_and(|s| !s.is_null()) {
        let (group, version, kind) = ("autoscaling".to_owned(), "v1".to_owned(), "Scale".to_owned());
        all.push(SubKind { name: "scale".to_owned(), group, version, kind, verbs: verbs() });
    }
    all
}

fn custom(definition: &Value, version: &Value, openapi: Option<&Value>) -> CustomFacts {
    let scale = version["subresources"].get("scale").filter(|s| !s.is_null());
    CustomFacts {
        columns: columns(version),
        scale: scale.map(|s| ScalePaths {
            spec_replicas: keys(text(s, "specReplicasPath")),
            status_replicas: keys(text(s, "statusReplicasPath")),
            label_selector: Some(keys(text(s, "labelSelectorPath"))).filter(|k| !k.is_empty()),
        }),
        has_status: version["subresources"].get("status").is_some(),
        openapi: openapi.cloned(),
        preserve_unknown: definition["spec"]["preserveUnknownFields"] == true,
        definition: meta::name(definition).to_owned(),
        deprecation_warning: deprecation(definition, version),
        terminating: meta::is_deleting(definition),
    }
}

/// The declared columns, or the age when none are.
fn columns(version: &Value) -> Vec<Column> {
    let declared = version["additionalPrinterColumns"].as_array().filter(|c| !c.is_empty());
    let Some(declared) = declared else {
        return vec![Column {
            name: "Age".to_owned(),
            type_name: "date".to_owned(),
            format: String::new(),
            description:
                "CreationTimestamp is a timestamp representing the server time when this object was created."
                    .to_owned(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".to_owned(),
        }];
    };
    let column = |c: &Value| Column {
        name: text(c, "name").to_owned(),
        type_name: text(c, "type").to_owned(),
        format: text(c, "format").to_owned(),
        description: match text(c, "description") {
            "" => format!("Custom resource definition column (in JSONPath format): {}", text(c, "jsonPath")),
            given => given.to_owned(),
        },
        priority: c["priority"].as_i64().unwrap_or(0),
        json_path: text(c, "jsonPath").to_owned(),
    };
    declared.iter().map(column).collect()
}

fn deprecation(definition: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(given) = version["deprecationWarning"].as_str() {
        return Some(given.to_owned());
    }
    let spec = &definition["spec"];
    let (group, kind) = (text(spec, "group"), text(&spec["names"], "kind"));
    let mut warning = format!("{group}/{} {kind} is deprecated", text(version, "name"));
    let newer = versions(definition).find(|v| v["served"] == true && v["deprecated"] != true);
    if let Some(newer) = newer {
        warning.push_str(&format!("; use {group}/{} {kind}", text(newer, "name")));
    }
    Some(warning)
}
