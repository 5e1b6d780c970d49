//! Whether a custom schema is structural: every field typed, value rules separate from structure.
//!
//! Works on the JSON form of `openAPIV3Schema`; the violations are upstream's, sorted by their text.

use serde_json::{Map, Value, json};

use crate::status::{FieldError, Path};

/// Where a schema stands in its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All violations of the schema at `path`.
pub fn check(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn members<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(name).and_then(Value::as_object).into_iter().flatten()
}

fn invariants(s: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    match s.get("items") {
        Some(items) => invariants(items, Level::Item, &path.child("items"), errors),
        None if text(s, "type") == "array" => {
            errors.push(FieldError::required(&path.child("items"), "must be specified"));
        }
        None => {}
    }
    for (name, child) in members(s, "properties") {
        invariants(child, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = s.get("additionalProperties").filter(|a| !a.is_null());
    if let Some(additional) = additional {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        if flag(s, "x-kubernetes-embedded-resource") {
            let text = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(&at, text));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at, errors);
        }
    }
    extensions(s, path, errors);
    let skip_any = is_int_or_string(list(s, "anyOf"));
    let skip_first_all = list(s, "allOf").first().is_some_and(|first| is_int_or_string(list(first, "anyOf")));
    value_rules(s, skip_any, skip_first_all, path, errors);
    types(s, level, path, errors);
    object_fields(s, level, path, errors);
}

fn is_int_or_string(any_of: &[Value]) -> bool {
    any_of.len() == 2 && any_of[0] == json!({"type": "integer"}) && any_of[1] == json!({"type": "string"})
}

fn extensions(s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if !flag(s, "x-kubernetes-int-or-string") {
        return;
    }
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if flag(s, name) {
            let text = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(name), true, text));
        }
    }
}

fn types(s: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let (at, ty) = (path.child("type"), text(s, "type"));
    let free = flag(s, "x-kubernetes-int-or-string") || flag(s, "x-kubernetes-preserve-unknown-fields");
    if flag(s, "x-kubernetes-embedded-resource") && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match ty {
            "" => FieldError::required(&at, why),
            ty => FieldError::invalid(&at, ty, why),
        });
    } else if ty.is_empty() && !free {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(&at, ty, "must be object at the root"));
    }
}

/// Rules for apiVersion, kind and metadata of whole objects.
fn object_fields(s: &Value, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let embedded = flag(s, "x-kubernetes-embedded-resource");
    let whole = level == Level::Root || embedded;
    let properties = s.get("properties").and_then(Value::as_object);
    let property = |name: &str| properties.and_then(|p| p.get(name));
    for name in ["kind", "apiVersion"] {
        if let Some(child) = property(name).filter(|c| whole && text(c, "type") != "string") {
            let at = path.child("properties").key(name).child("type");
            errors.push(FieldError::invalid(&at, text(child, "type"), "must be string"));
        }
    }
    if let Some(metadata) = property("metadata") {
        let at = path.child("properties").key("metadata");
        if whole && text(metadata, "type") != "object" {
            errors.push(FieldError::invalid(&at.child("type"), text(metadata, "type"), "must be object"));
        }
        if level == Level::Root && !only_names(metadata) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(&at, why));
        }
    }
    let bare = properties.is_none_or(Map::is_empty);
    if embedded && !flag(s, "x-kubernetes-preserve-unknown-fields") && bare {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), why));
    }
}

/// Metadata at the root may restrict the name and nothing else.
fn only_names(metadata: &Value) -> bool {
    let plain = |name: &String| matches!(name.as_str(), "type" | "default" | "properties");
    let names = |name: &String| matches!(name.as_str(), "name" | "generateName");
    members(metadata, "properties").all(|(n, _)| names(n))
        && metadata.as_object().is_some_and(|m| m.keys().all(plain))
}

fn value_rules(s: &Value, skip_any: bool, skip_first_all: bool, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, skip) in [("anyOf", skip_any), ("allOf", false), ("oneOf", false)] {
        for (i, nested) in list(s, name).iter().enumerate().filter(|_| !skip) {
            let skip_nested = name == "allOf" && i == 0 && skip_first_all;
            nested_rules(nested, skip_nested, &path.child(name).index(i), errors);
        }
    }
    if let Some(not) = s.get("not").filter(|n| n.is_object()) {
        nested_rules(not, false, &path.child("not"), errors);
    }
    let pattern = text(s, "pattern");
    if let Some(error) =
        Some(pattern).filter(|p| !p.is_empty()).and_then(|p| super::crd::compile_pattern(p).err())
    {
        let text = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), pattern, text));
    }
}

/// Inside allOf, anyOf, oneOf and not only value rules may stand.
fn nested_rules(v: &Value, skip_any: bool, path: &Path, errors: &mut Vec<FieldError>) {
    value_rules(v, skip_any, false, path, errors);
    if let Some(items) = v.get("items").filter(|i| i.is_object()) {
        nested_rules(items, false, &path.child("items"), errors);
    }
    for (name, child) in members(v, "properties") {
        nested_rules(child, false, &path.child("properties").key(name), errors);
        if name == "metadata" {
            let at = path.child("properties").key(name);
            errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
        }
    }
    const FORBIDDEN: [(&str, &str); 12] = [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
    ];
    for (name, why) in FORBIDDEN {
        let present = match v.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if present {
            errors.push(FieldError::forbidden(&path.child(name), why));
        }
    }
}

/// What nested rules speak of must be declared in the structure: `v` are rules, `s` the structure beside them.
fn completeness(v: &Value, s: Option<&Value>, at: &Path, rules_at: &Path, errors: &mut Vec<FieldError>) {
    if let Some(not) = v.get("not").filter(|n| n.is_object()) {
        nested_completeness(not, s, at, &rules_at.child("not"), errors);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (i, nested) in list(v, name).iter().enumerate() {
            nested_completeness(nested, s, at, &rules_at.child(name).index(i), errors);
        }
    }
}

fn nested_completeness(
    v: &Value,
    s: Option<&Value>,
    at: &Path,
    rules_at: &Path,
    errors: &mut Vec<FieldError>,
) {
    let Some(structure) = s else {
        errors.push(FieldError::required(at, format!("because it is defined in {rules_at}")));
        return;
    };
    completeness(v, s, at, rules_at, errors);
    if let Some(items) = v.get("items").filter(|i| i.is_object()) {
        let inner = structure.get("items");
        nested_completeness(items, inner, &at.child("items"), &rules_at.child("items"), errors);
    }
    for (name, child) in members(v, "properties") {
        let (here, there) = (at.child("properties").key(name), rules_at.child("properties").key(name));
        let declared = structure.get("properties").and_then(|p| p.get(name));
        nested_completeness(child, declared, &here, &there, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_texts(schema: Value, expected: &[&str]) {
        let errors: Vec<String> = check(&schema, &Path::new("s")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn violations() {
        check_texts(json!({"type": "object", "properties": {"a": {"type": "string"}}}), &[]);
        check_texts(json!({}), &["s.type: Required value: must not be empty at the root"]);
        check_texts(
            json!({"type": "object", "properties": {"a": {}, "b": {"type": "array"}}}),
            &[
                "s.properties[a].type: Required value: must not be empty for specified object fields",
                "s.properties[b].items: Required value: must be specified",
            ],
        );
        check_texts(
            json!({"type": "object", "anyOf": [{"properties": {"x": {"type": "string"}}}]}),
            &[
                "s.anyOf[0].properties[x].type: Forbidden: must be empty to be structural",
                "s.properties[x]: Required value: because it is defined in s.anyOf[0].properties[x]",
            ],
        );
        check_texts(
            json!({"type": "object", "properties": {"p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}),
            &[],
        );
        check_texts(
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            &[
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        );
    }
}
