//! Definitions of custom kinds, from their `openAPIV3Schema`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Format, Served, descriptions};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The definition's name: the group's labels backwards, version, kind.
pub fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut labels: Vec<&str> = group.split('.').collect();
    labels.reverse();
    format!("{}.{version}.{kind}", labels.join("."))
}

/// Notes the built-in definitions that custom kinds refer to.
pub(super) fn mark_used(served: &Served, used: &mut BTreeSet<String>) {
    if served.custom.is_some() {
        used.extend([OBJECT_META, LIST_META].map(str::to_owned));
    }
}

/// Adds a custom kind and its list; built-in resources add nothing.
pub(super) fn add(format: Format, served: &Served, schemas: &mut Map<String, Value>) {
    let Some(custom) = &served.custom else { return };
    let (group, version, kind) = (&served.group, &served.version, &served.kind);
    let mut schema = match format {
        _ if !custom.schema.is_object() => json!({"type": "object"}),
        Format::V3 => custom.schema.clone(),
        Format::V2 => version2(&custom.schema),
    };
    let gvk = |kind: &str| json!([{"group": group, "version": version, "kind": kind}]);
    // kubectl would take a list of properties to be complete and refuse every other field.
    let takes_anything =
        custom.preserve_unknown || custom.schema["x-kubernetes-preserve-unknown-fields"] == true;
    if format == Format::V2 && (takes_anything || !custom.schema.is_object()) {
        schema = json!({"type": "object"});
    } else {
        for name in ["apiVersion", "kind"] {
            let property = json!({"type": "string", "description": descriptions::of_any_kind(name)});
            crate::object::set(&mut schema, &["properties", name], property);
        }
        let metadata = metadata(format, schema.pointer("/properties/metadata"));
        crate::object::set(&mut schema, &["properties", "metadata"], metadata);
    }
    schema["x-kubernetes-group-version-kind"] = gvk(kind);
    let name = definition_name(group, version, kind);
    let list = json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": descriptions::of_any_kind("apiVersion")},
            "kind": {"type": "string", "description": descriptions::of_any_kind("kind")},
            "metadata": format.reference(LIST_META),
            "items": {"type": "array", "items": format.reference(&name)},
        },
        "x-kubernetes-group-version-kind": gvk(&served.list_kind),
    });
    schemas.insert(definition_name(group, version, &served.list_kind), list);
    schemas.insert(name, schema);
}

/// The schema's own words about metadata do not change its type.
fn metadata(format: Format, own: Option<&Value>) -> Value {
    let mut out = match format {
        Format::V2 => format.reference(OBJECT_META),
        Format::V3 => json!({"allOf": [format.reference(OBJECT_META)]}),
    };
    let own = own.and_then(|m| m.get("description")).cloned();
    out["description"] = own.unwrap_or_else(|| descriptions::of_any_kind("metadata").into());
    out
}

/// The part of a structural schema that version 2 can express: value rules that it cannot, and the types of what
/// may be null or of two types, are left out.
fn version2(schema: &Value) -> Value {
    let Some(members) = schema.as_object() else { return schema.clone() };
    let flag = |name: &str| members.get(name).and_then(Value::as_bool).unwrap_or(false);
    let free = flag("nullable") || flag("x-kubernetes-int-or-string");
    let mut out = Map::new();
    for (name, value) in members {
        match name.as_str() {
            "oneOf" | "anyOf" | "allOf" | "not" | "nullable" | "default" => {}
            "type" if free => {}
            // Without a type these would describe nothing.
            "items" | "properties" | "additionalProperties" if free => {}
            // A schema that takes what it does not know must not be read as complete.
            "items" | "properties" | "additionalProperties"
                if flag("x-kubernetes-preserve-unknown-fields") => {}
            "properties" => {
                let inner = value.as_object().into_iter().flatten().map(|(n, v)| (n.clone(), version2(v)));
                out.insert(name.clone(), Value::Object(inner.collect()));
            }
            "items" | "additionalProperties" => {
                out.insert(name.clone(), version2(value));
            }
            _ => {
                out.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}
