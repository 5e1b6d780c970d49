//! Filling in what was left out: the schema's defaults and those of upstream's defaulting functions.
//!
//! For built-in types the first kind mostly says which empty fields Go writes all the same (`""`, `{}`); the
//! second comes from `tables/static_defaults.tsv`. Defaults that depend on other fields are the kinds' hooks.
//! For custom types there is only the first kind, with upstream's order: the field first, then what is in it.

use serde_json::{Map, Value};

use super::{Field, Schema, Shape, Struct, TypeId, Types};

/// Applies all defaults in place. Values of a wrong type are left alone.
pub fn apply(schema: &Schema, object: &mut Value) {
    walk(&schema.types, schema.root, object);
}

fn walk(types: &Types, id: TypeId, value: &mut Value) {
    match (&types.get(id).shape, value) {
        (Shape::Struct(s), Value::Object(members)) => fill(types, s, members),
        (Shape::Map(item), Value::Object(members)) => {
            let ty = types.get(*item);
            if !ty.nullable && ty.default.is_none() {
                members.retain(|_, value| !value.is_null());
            }
            for value in members.values_mut() {
                replace_null(types, *item, value);
                walk(types, *item, value);
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            for value in items {
                replace_null(types, list.item, value);
                walk(types, list.item, value);
            }
        }
        _ => {}
    }
}

/// A forbidden null in a list or map becomes the default of its type, where there is one.
fn replace_null(types: &Types, id: TypeId, value: &mut Value) {
    let ty = types.get(id);
    if let (Value::Null, false, Some(default)) = (&*value, ty.nullable, &ty.default) {
        *value = default.clone();
    }
}

fn fill(types: &Types, s: &Struct, members: &mut Map<String, Value>) {
    drop_nulls(types, s, members);
    for field in &s.fields {
        if field.default.is_some() || field.set_default.is_some() {
            fill_field(types, field, members);
        }
    }
    for (name, value) in members.iter_mut() {
        if matches!(value, Value::Object(_) | Value::Array(_))
            && let Some(field) = s.field(name)
        {
            walk(types, field.ty, value);
        }
    }
}

/// A null that is no value of its field, and has no default to become, is as good as absent.
fn drop_nulls(types: &Types, s: &Struct, members: &mut Map<String, Value>) {
    if !members.values().any(Value::is_null) {
        return;
    }
    members.retain(|name, value| {
        let stays = |field: &Field| {
            types.get(field.ty).nullable || field.default.is_some() || field.set_default.is_some()
        };
        !value.is_null() || s.field(name).is_none_or(stays)
    });
}

fn fill_field(types: &Types, field: &Field, members: &mut Map<String, Value>) {
    let current = members.get(field.name.as_ref());
    let nullable = types.get(field.ty).nullable;
    let absent = match current {
        None => true,
        Some(Value::Null) => !nullable,
        Some(_) => false,
    };
    let empty = current.is_none_or(is_zero);
    let value = match (&field.set_default, &field.default) {
        (Some(set), _) if absent || (set.zero_is_absent && empty) => &set.value,
        (None, Some(default)) if absent => default,
        _ => return,
    };
    members.insert(field.name.to_string(), value.clone());
}

/// Whether Go would call the value empty.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::{for_kind, from_crd};

    #[test]
    fn built_in() {
        let schema = for_kind("", "v1", "Pod").expect("a known kind");
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "livenessProbe": {"timeoutSeconds": 0}}]}});
        apply(&schema, &mut pod);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["resources"], json!({}));
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
        assert_eq!(container["livenessProbe"]["timeoutSeconds"], 1);
        assert_eq!(pod["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(pod["status"], json!({}));
        let once = pod.clone();
        apply(&schema, &mut pod);
        assert_eq!(pod, once);
    }

    #[test]
    fn custom() {
        let openapi = json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "x"},
            "b": {"type": "string", "default": "y", "nullable": true},
            "c": {"type": "object", "default": {}, "properties": {"d": {"type": "integer", "default": 3}}},
            "e": {"type": "array", "items": {"type": "object", "properties": {"f": {"type": "boolean", "default": true}, "g": {"type": "string"}}}}
        }});
        let schema = from_crd(&openapi, false).expect("a structural schema");
        let mut object = json!({"a": null, "b": null, "c": null, "e": [{"g": null}]});
        apply(&schema, &mut object);
        assert_eq!(object, json!({"a": "x", "b": null, "c": {"d": 3}, "e": [{"f": true}]}));
    }
}
