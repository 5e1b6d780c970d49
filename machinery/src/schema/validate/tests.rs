//! The validator's messages, and what an update may keep.

use serde_json::json;

use super::*;
use crate::schema::from_crd;

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn check(property: Value, value: Value, expected: &[&str]) {
    let schema =
        from_crd(&json!({"type": "object", "properties": {"f": property}}), false).expect("compiles");
    assert_eq!(texts(&validate(&schema, &json!({"f": value}))), expected);
}

/// Schema of a field, its value, what is said about it.
#[rustfmt::skip]
fn complaints() -> Vec<(Value, Value, Vec<&'static str>)> {
    vec![
        (json!({"type": "integer"}), json!("x"), vec![r#"f: Invalid value: "string": f in body must be of type integer: "string""#]),
        (json!({"type": "integer"}), json!(null), vec![r#"f: Invalid value: "null": f in body must be of type integer: "null""#]),
        (json!({"type": "integer", "nullable": true}), json!(null), vec![]),
        (json!({"type": "integer"}), json!(2.0), vec![]),
        (json!({"type": "number"}), json!(2), vec![]),
        (json!({"type": "string", "enum": ["a", "b"]}), json!("c"), vec![r#"f: Unsupported value: "c": supported values: "a", "b""#]),
        (json!({"type": "string", "pattern": "^a$"}), json!("b"), vec![r#"f: Invalid value: "b": f in body should match '^a$'"#]),
        (json!({"type": "string", "maxLength": 1}), json!("bb"), vec!["f: Too long: may not be more than 1 byte"]),
        (json!({"type": "string", "minLength": 3}), json!("bb"), vec![r#"f: Invalid value: "bb": f in body should be at least 3 chars long"#]),
        (json!({"type": "integer", "minimum": 1}), json!(0), vec!["f: Invalid value: 0: f in body should be greater than or equal to 1"]),
        (json!({"type": "integer", "maximum": 1, "exclusiveMaximum": true}), json!(1), vec!["f: Invalid value: 1: f in body should be less than 1"]),
        (json!({"type": "integer", "multipleOf": 3}), json!(4), vec!["f: Invalid value: 4: f in body should be a multiple of 3"]),
        (json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}), json!(["a", "b"]), vec!["f: Too many: 2: must have at most 1 item"]),
        (json!({"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}), json!({}), vec!["f.x: Required value"]),
        (json!({"x-kubernetes-int-or-string": true}), json!(true), vec![r#"f: Invalid value: "boolean": f in body must be of type integer,string: "boolean""#]),
        (json!({"type": "string", "format": "date"}), json!("x"), vec![r#"f: Invalid value: "x": f in body must be of type date: "x""#]),
        (json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({}),
            vec![r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found none valid"#, "f.a: Required value"]),
    ]
}

#[test]
fn messages() {
    for (property, value, expected) in complaints() {
        check(property, value, &expected);
    }
}

#[test]
fn list_types() {
    check(
        json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
        json!(["a", "a"]),
        &[r#"f[1]: Duplicate value: "a""#],
    );
    let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
    check(map, json!([{"k": "a"}, {"k": "a"}]), &[r#"f[1]: Duplicate value: {"k":"a"}"#]);
}

#[test]
fn updates_ratchet() {
    let openapi = json!({"type": "object", "required": ["must"], "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string"}, "must": {"type": "string"}}});
    let schema = from_crd(&openapi, false).expect("compiles");
    let old = json!({"a": "long", "b": "x", "must": ""});
    let new = json!({"a": "long", "b": "y", "must": ""});
    assert_eq!(texts(&validate_update(&schema, &new, &old)), Vec::<String>::new());
    let new = json!({"a": "longer", "b": "y"});
    assert_eq!(
        texts(&validate_update(&schema, &new, &old)),
        ["a: Too long: may not be more than 1 byte", "must: Required value"]
    );
}
