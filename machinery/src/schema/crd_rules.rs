//! What the schema of a CustomResourceDefinition may say beyond being structural: supported keywords, list and map
//! types, defaults that fit their own schema, the form of validation rules (their expressions are not compiled).

use serde_json::Value;

use super::{crd, prune, structural, validate};
use crate::gotext;
use crate::status::{FieldError, Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Every complaint about an `openAPIV3Schema`; `path` leads to it. Structural violations come first and alone.
pub fn check_schema(schema: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if flag(schema, "nullable") {
        errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    let violations = structural::check(schema, path);
    if violations.is_empty() {
        defaults(schema, path, &mut errors);
    }
    errors.extend(violations);
    let place = Place { root: true, inside_meta: false, no_defaults: None };
    node(schema, path, &place, &mut errors);
    errors
}

/// Where a schema stands, as far as the rules care.
#[derive(Clone, Default)]
struct Place {
    root: bool,
    inside_meta: bool,
    /// Why defaults may not be set here.
    no_defaults: Option<String>,
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str)
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn filled(schema: &Value, name: &str) -> bool {
    match schema.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
        Some(_) => true,
    }
}

fn node(s: &Value, path: &Path, place: &Place, errors: &mut Vec<FieldError>) {
    keywords(s, path, place, errors);
    let below = Place { root: false, ..place.clone() };
    if let Some(additional) = s.get("additionalProperties").filter(|a| !a.is_null()) {
        let at = path.child("additionalProperties");
        if filled(s, "properties") && additional != &Value::Bool(true) {
            let why = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(&at, why));
        }
        if additional.is_object() {
            let mut inner = below.clone();
            if place.inside_meta {
                inner.no_defaults =
                    Some("inside additionalProperties applying to object metadata".to_owned());
            }
            node(additional, &at, &inner, errors);
        }
    }
    let whole = place.root || flag(s, "x-kubernetes-embedded-resource");
    for (name, child) in s.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mut inner = below.clone();
        if whole && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            inner.inside_meta = true;
            if place.root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        node(child, &path.child("properties").key(name), &inner, errors);
    }
    if let Some(not) = s.get("not").filter(|n| n.is_object()) {
        node(not, &path.child("not"), &below, errors);
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (i, child) in list(s, name).iter().enumerate() {
            node(child, &path.child(name).index(i), &below, errors);
        }
    }
    if let Some(items) = s.get("items").filter(|i| i.is_object()) {
        node(items, &path.child("items"), &below, errors);
    }
    map_type(s, path, errors);
    list_type(s, path, errors);
    rules(s, path, errors);
}

/// Keywords of JSON schema that are not supported.
fn keywords(s: &Value, path: &Path, place: &Place, errors: &mut Vec<FieldError>) {
    let ty = text(s, "type").unwrap_or_default();
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
    }
    if let (true, Some(why)) = (filled(s, "default"), &place.no_defaults) {
        errors.push(FieldError::forbidden(&path.child("default"), format!("must not be set {why}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if filled(s, name) {
            errors.push(FieldError::forbidden(&path.child(name), format!("{name} is not supported")));
        }
    }
    if ty == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), why));
    }
    if s.get("items").is_some_and(Value::is_array) {
        let why = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(&path.child("items"), why));
    }
    if place.inside_meta && flag(s, "x-kubernetes-embedded-resource") {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(FieldError::forbidden(&at, "must not be used inside of resource meta"));
    }
    if flag(s, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), why));
    }
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if s.get(preserve) == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(&path.child(preserve), false, "must be true or undefined"));
    }
}

/// The type a keyword needs is missing or another one.
fn needs_type(s: &Value, wanted: &str, keyword: &str, path: &Path, errors: &mut Vec<FieldError>) -> bool {
    let (at, why) = (path.child("type"), format!("must be {wanted} if {keyword} is specified"));
    match text(s, "type").unwrap_or_default() {
        ty if ty == wanted => return false,
        "" => errors.push(FieldError::required(&at, why)),
        ty => errors.push(FieldError::invalid(&at, ty, why)),
    }
    true
}

fn map_type(s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const KEYWORD: &str = "x-kubernetes-map-type";
    let Some(kind) = text(s, KEYWORD) else { return };
    needs_type(s, "object", KEYWORD, path, errors);
    if !matches!(kind, "atomic" | "granular") {
        errors.push(FieldError::not_supported(&path.child(KEYWORD), kind, &["atomic", "granular"]));
    }
}

fn list_type(s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const KEYWORD: &str = "x-kubernetes-list-type";
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let kind = text(s, KEYWORD);
    let at = path.child(KEYWORD);
    let keys = list(s, KEYS);
    let items = s.get("items").filter(|i| i.is_object());
    if let Some(kind) = kind {
        let wrong = needs_type(s, "array", KEYWORD, path, errors);
        if let (false, "set", Some(items)) = (wrong, kind, items) {
            set_items(items, path, errors);
        }
        if let ("set" | "map", true) = (kind, items.is_some_and(|i| flag(i, "nullable"))) {
            let why = format!("cannot be nullable when {KEYWORD} is {kind}");
            errors.push(FieldError::forbidden(&path.child("items").child("nullable"), why));
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            errors.push(FieldError::not_supported(&at, kind, &["atomic", "set", "map"]));
        }
    }
    if !keys.is_empty() && kind != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match kind {
            None => FieldError::required(&at, why),
            Some(kind) => FieldError::invalid(&at, kind, why),
        });
    }
    if kind != Some("map") {
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&path.child(KEYS), why));
    }
    match items {
        None => {
            let why = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&path.child("items"), why));
        }
        Some(items) if text(items, "type") != Some("object") => {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            let found = text(items, "type").unwrap_or_default();
            errors.push(FieldError::invalid(&path.child("items").child("type"), found, why));
        }
        Some(items) => map_keys(items, keys, s, path, errors),
    }
}

/// Elements of a set must be owned as a whole.
fn set_items(items: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (keyword, bad) = match text(items, "type") {
        Some("array") => {
            let name = "x-kubernetes-list-type";
            (name, text(items, name).is_some_and(|k| k != "atomic"))
        }
        Some("object") => {
            let name = "x-kubernetes-map-type";
            (name, text(items, name) != Some("atomic"))
        }
        _ => return,
    };
    if bad {
        let found = items.get("x-kubernetes-list-type").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(&path.child("items").child(keyword), found, why));
    }
}

fn map_keys(items: &Value, keys: &[Value], s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let at = path.child("x-kubernetes-list-map-keys");
    let required = list(items, "required");
    for (i, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        match items.get("properties").and_then(|p| p.get(name)) {
            Some(property) => {
                let here = path.child("items").child("properties").key(name);
                if matches!(text(property, "type"), Some("array" | "object")) {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.push(FieldError::invalid(&here.child("type"), "object", why));
                }
                if flag(property, "nullable") {
                    let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.push(FieldError::forbidden(&here.child("nullable"), why));
                }
                if !required.contains(key) && !filled(property, "default") {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(&here.child("default"), why));
                }
            }
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&at, keys_of(s), why));
            }
        }
        if keys[..i].contains(key) {
            errors.push(FieldError::invalid(&at, keys_of(s), "must not contain duplicate entries"));
        }
    }
}

fn keys_of(s: &Value) -> Value {
    s.get("x-kubernetes-list-map-keys").cloned().unwrap_or(Value::Null)
}

/// The form of `x-kubernetes-validations`.
fn rules(s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    const KEYWORD: &str = "x-kubernetes-validations";
    for (i, rule) in list(s, KEYWORD).iter().enumerate() {
        let at = path.child(KEYWORD).index(i);
        let part = |name: &str| text(rule, name).unwrap_or_default();
        let (expression, message) = (part("rule").trim(), part("message"));
        let breaks = |text: &str| text.contains(['\n', '\r']);
        if expression.is_empty() {
            errors.push(FieldError::required(&at.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(&at.child("message"), message, "must be non-empty if specified"));
        } else if breaks(message.trim()) {
            errors.push(FieldError::invalid(&at.child("message"), message, "must not contain line breaks"));
        } else if breaks(expression) && message.is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at.child("message"), why));
        }
        let expression = part("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), why));
        }
        if let Some(reason) = text(rule, "reason").filter(|r| !REASONS.contains(r)) {
            errors.push(FieldError::not_supported(&at.child("reason"), reason, &REASONS));
        }
        let field = part("fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            errors.push(FieldError::invalid(&at.child("fieldPath"), field, "must be non-empty if specified"));
        } else if breaks(field) {
            errors.push(FieldError::invalid(&at.child("fieldPath"), field, "must not contain line breaks"));
        }
    }
}

/// Defaults must be what their own schema allows, with nothing unknown in them.
fn defaults(s: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(default) = s.get("default").filter(|d| !d.is_null())
        && let Ok(schema) = crd::compile_node(s)
    {
        let at = path.child("default");
        let mut pruned = default.clone();
        if !prune::prune(&schema, &mut pruned).is_empty() {
            errors.push(FieldError::invalid(&at, default.clone(), "must not have unknown fields"));
        }
        for mut error in validate::validate(&schema, default) {
            error.field = match error.field.as_str() {
                "<nil>" => at.to_string(),
                inner => at.child(inner).to_string(),
            };
            errors.push(error);
        }
    }
    if let Some(items) = s.get("items").filter(|i| i.is_object()) {
        defaults(items, &path.child("items"), errors);
    }
    for (name, child) in s.get("properties").and_then(Value::as_object).into_iter().flatten() {
        defaults(child, &path.child("properties").key(name), errors);
    }
    if let Some(additional) = s.get("additionalProperties").filter(|a| a.is_object()) {
        defaults(additional, &path.child("additionalProperties"), errors);
    }
}

/// The formats a schema asks for that mean nothing: one warning each, as upstream sends them.
pub fn unrecognized_formats(schema: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let (ty, format) = (text(schema, "type").unwrap_or_default(), text(schema, "format").unwrap_or_default());
    if !format.is_empty() && super::formats::supported(ty, format).is_empty() {
        out.push(format!("unrecognized format {}", gotext::quote(format)));
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        out.extend(unrecognized_formats(child, &path.child("properties").key(name)));
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = schema.get(name).filter(|c| c.is_object()) {
            out.extend(unrecognized_formats(child, &path.child(name)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(property: Value, expected: &[&str]) {
        let schema = json!({"type": "object", "properties": {"f": property}});
        let errors: Vec<String> =
            check_schema(&schema, &Path::new("s")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn complaints() {
        check(json!({"type": "string", "default": "x"}), &[]);
        check(
            json!({"type": "integer", "default": "x"}),
            &[
                r#"s.properties[f].default: Invalid value: "string":  in body must be of type integer: "string""#,
            ],
        );
        check(
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}}),
            &[r#"s.properties[f].default: Invalid value: {"b":1}: must not have unknown fields"#],
        );
        check(
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            &[
                "s.properties[f].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        );
        check(
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            &[
                "s.properties[f].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        );
        check(
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            &[
                "s.properties[f].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        );
        check(
            json!({"type": "string", "$ref": "#/x"}),
            &["s.properties[f].$ref: Forbidden: $ref is not supported"],
        );
        check(
            json!({"type": "object", "x-kubernetes-map-type": "set"}),
            &[
                r#"s.properties[f].x-kubernetes-map-type: Unsupported value: "set": supported values: "atomic", "granular""#,
            ],
        );
        check(
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}]}),
            &["s.properties[f].x-kubernetes-validations[0].rule: Required value: rule is not specified"],
        );
    }
}
