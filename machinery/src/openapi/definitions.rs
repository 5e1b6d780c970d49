//! Definitions of built-in types, with everything they refer to.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Format, descriptions};
use crate::schema::{self, Field, ListKind, Shape, Type, TypeId, Types};

/// The definitions of all used names and, transitively, of what they use. Names nobody knows are left out.
pub(super) fn closure(format: Format, used: &mut BTreeSet<String>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut queue: Vec<String> = used.iter().cloned().collect();
    while let Some(name) = queue.pop() {
        let Some(schema) = schema::definition(&name).filter(|_| !out.contains_key(&name)) else { continue };
        let mut writer = Writer { format, types: &schema.types, used: Vec::new() };
        let definition = writer.definition(schema.root);
        for next in writer.used {
            used.insert(next.clone());
            queue.push(next);
        }
        out.insert(name, definition);
    }
    out
}

struct Writer<'t> {
    format: Format,
    types: &'t Types,
    used: Vec<String>,
}

impl Writer<'_> {
    /// A named type, in full.
    fn definition(&mut self, id: TypeId) -> Value {
        let ty = self.types.get(id);
        let mut out = Map::new();
        let kinds: Vec<Value> = schema::builtin::kinds()
            .filter(|(_, kind_id)| *kind_id == id)
            .map(|((group, version, kind), _)| json!({"group": group, "version": version, "kind": kind}))
            .collect();
        if let Shape::Struct(s) = &ty.shape {
            let mut properties = Map::new();
            for field in &s.fields {
                let text = descriptions::of_field(&ty.name, !kinds.is_empty(), &field.name);
                properties.insert(field.name.to_string(), self.property(field, text));
            }
            let required: Vec<&str> =
                s.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
            out.insert("type".to_owned(), json!("object"));
            if !properties.is_empty() {
                out.insert("properties".to_owned(), Value::Object(properties));
            }
            if !required.is_empty() {
                out.insert("required".to_owned(), json!(required));
            }
        } else if let Value::Object(members) = special(self.format, &ty.shape) {
            out = members;
        }
        if ty.atomic {
            out.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        if let Some(text) = descriptions::of_type(&ty.name) {
            out.insert("description".to_owned(), json!(text));
        }
        if !kinds.is_empty() {
            out.insert("x-kubernetes-group-version-kind".to_owned(), json!(kinds));
        }
        let more = schema::builtin::extensions(id).and_then(|text| serde_json::from_str(text).ok());
        if let Some(Value::Object(more)) = more {
            out.extend(more);
        }
        Value::Object(out)
    }

    fn property(&mut self, field: &Field, text: Option<&str>) -> Value {
        let mut out = self.inline(field.ty);
        let mut put = |name: &str, value: Value| {
            if let Value::Object(members) = &mut out {
                members.insert(name.to_owned(), value);
            }
        };
        if let Some(text) = text {
            put("description", json!(text));
        }
        if !field.map_type.is_empty() {
            put("x-kubernetes-map-type", json!(field.map_type));
        }
        let mut strategies = Vec::new();
        if field.merge.merge {
            strategies.push("merge");
        }
        if field.merge.retain_keys {
            strategies.push("retainKeys");
        }
        if field.merge.replace {
            strategies.push("replace");
        }
        if !strategies.is_empty() {
            put("x-kubernetes-patch-strategy", json!(strategies.join(",")));
        }
        if !field.merge.key.is_empty() {
            put("x-kubernetes-patch-merge-key", json!(field.merge.key));
        }
        // Version 2 documents have never had defaults.
        if let (Format::V3, Some(default)) = (self.format, &field.default) {
            put("default", default.clone());
        }
        if self.format == Format::V3
            && let Some(reference) = out.as_object_mut().and_then(|members| members.remove("$ref"))
        {
            // A reference may have no siblings in OpenAPI 3; upstream wraps it whether it has some or not.
            out["allOf"] = json!([{"$ref": reference}]);
        }
        out
    }

    /// A type as it stands in a property or list.
    fn inline(&mut self, id: TypeId) -> Value {
        let ty = self.types.get(id);
        if !ty.name.is_empty() {
            self.used.push(ty.name.to_string());
            return self.format.reference(&ty.name);
        }
        match &ty.shape {
            Shape::List(list) => self.list(ty, list.item),
            Shape::Map(item) => json!({"type": "object", "additionalProperties": self.inline(*item)}),
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            _ => special(self.format, &ty.shape),
        }
    }

    fn list(&mut self, ty: &Type, item: TypeId) -> Value {
        let mut out = json!({"type": "array", "items": self.inline(item)});
        if let Shape::List(list) = &ty.shape
            && list.declared
        {
            let kind = match list.kind {
                ListKind::Atomic => "atomic",
                ListKind::Set => "set",
                ListKind::Map => "map",
            };
            out["x-kubernetes-list-type"] = json!(kind);
            if !list.keys.is_empty() {
                out["x-kubernetes-list-map-keys"] = json!(list.keys);
            }
        }
        out
    }
}

/// Types with a JSON form of their own.
fn special(format: Format, shape: &Shape) -> Value {
    match (shape, format) {
        (Shape::Quantity, Format::V2) => json!({"type": "string"}),
        (Shape::Quantity, Format::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Shape::IntOrString, Format::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Shape::IntOrString, Format::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Shape::Time | Shape::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Shape::Raw | Shape::FieldsV1, _) => json!({"type": "object"}),
        _ => json!({}),
    }
}
