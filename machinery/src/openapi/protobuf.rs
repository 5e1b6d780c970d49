//! The version 2 document in the protobuf form that client-go and older kubectls ask for
//! (`application/com.github.proto-openapi.spec.v2.v1.0+protobuf`).
//!
//! Field numbers are those of gnostic's `OpenAPIv2.proto`. Extensions travel as YAML text; JSON is YAML.

use serde_json::{Map, Value};

use crate::codec::writer::{bytes as put, double, varint};

/// The media type of this form.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What a JSON member becomes.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Texts,
    Bool,
    Int,
    Double,
    /// Any value, as text.
    Any,
    Anys,
    Message(&'static Message),
    /// A map whose entries are `{name = 1, value = 2}` in the given field of a message of their own.
    Map(u32, &'static Message),
    Schema,
    /// One schema or several, in an `ItemsItem`.
    Items,
    Schemas,
    /// A map of schemas in a message of their own.
    SchemaMap,
    /// A schema or a flag.
    SchemaOrBool,
    /// A text or several, in a `TypeItem`.
    Type,
    Parameters,
    Responses,
    /// A list of maps from names to texts.
    Security,
    /// A map of ways to prove who one is, of which an API key is the only one here.
    SecurityDefinitions,
}

/// A message: member names with their numbers, and where unknown members that begin with `x-` go.
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    extensions: u32,
}

use Kind::{
    Any, Anys, Bool, Double, Int, Items, Map as MapOf, Message as Of, Parameters, Responses, Schema,
    SchemaMap, SchemaOrBool, Schemas, Security, SecurityDefinitions, Text, Texts, Type,
};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Of(&INFO)),
        ("paths", 8, MapOf(2, &PATH)),
        ("definitions", 9, SchemaMap),
        ("security", 12, Security),
        ("securityDefinitions", 13, SecurityDefinitions),
    ],
    extensions: 16,
};
static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7 };
static PATH: Message = Message {
    fields: &[
        ("get", 2, Of(&OPERATION)),
        ("put", 3, Of(&OPERATION)),
        ("post", 4, Of(&OPERATION)),
        ("delete", 5, Of(&OPERATION)),
        ("options", 6, Of(&OPERATION)),
        ("head", 7, Of(&OPERATION)),
        ("patch", 8, Of(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Responses),
        ("schemes", 10, Texts),
        ("deprecated", 11, Bool),
        ("security", 12, Security),
    ],
    extensions: 13,
};
static RESPONSE: Message = Message { fields: &[("description", 1, Text)], extensions: 5 };
static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, Schema),
    ],
    extensions: 6,
};
static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Bool),
    ],
    extensions: 23,
};
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Bool),
    ],
    extensions: 22,
};
static API_KEY: Message = Message {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Int),
        ("minLength", 12, Int),
        ("pattern", 13, Text),
        ("maxItems", 14, Int),
        ("minItems", 15, Int),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Int),
        ("minProperties", 18, Int),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrBool),
        ("type", 22, Type),
        ("items", 23, Items),
        ("allOf", 24, Schemas),
        ("properties", 25, SchemaMap),
        ("readOnly", 27, Bool),
        ("example", 30, Any),
    ],
    extensions: 31,
};

/// The bytes of a version 2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn message(of: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(members) = value.as_object() else { return out };
    for (name, number, kind) in of.fields {
        if let Some(value) = members.get(*name) {
            field(&mut out, *number, *kind, value);
        }
    }
    for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        put(&mut out, of.extensions, &named(name, &any(value)));
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, kind: Kind, value: &Value) {
    match kind {
        Text => text(out, number, value),
        Texts => items(value).for_each(|item| text(out, number, item)),
        Bool => flag(out, number, value),
        Int => varint(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
        Double => double(out, number, value.as_f64().unwrap_or_default()),
        Any => put(out, number, &any(value)),
        Anys => items(value).for_each(|item| put(out, number, &any(item))),
        Of(of) => put(out, number, &message(of, value)),
        MapOf(inner, of) => put(out, number, &map(inner, value, |v| message(of, v))),
        Schema => put(out, number, &message(&SCHEMA, value)),
        Schemas => items(value).for_each(|item| put(out, number, &message(&SCHEMA, item))),
        SchemaMap => put(out, number, &map(1, value, |v| message(&SCHEMA, v))),
        SchemaOrBool if value.is_boolean() => put(out, number, &wrapped(|o| flag(o, 2, value))),
        SchemaOrBool | Items => put(out, number, &wrapped(|o| put(o, 1, &message(&SCHEMA, value)))),
        Type => put(out, number, &wrapped(|o| one_or_more(value).for_each(|t| text(o, 1, t)))),
        Parameters => items(value).for_each(|item| put(out, number, &parameter(item))),
        Responses => put(out, number, &map(1, value, |v| wrapped(|o| put(o, 1, &response(v))))),
        SecurityDefinitions => {
            put(out, number, &map(1, value, |v| wrapped(|o| put(o, 2, &message(&API_KEY, v)))));
        }
        Security => items(value).for_each(|item| put(out, number, &map(1, item, |_| Vec::new()))),
    }
}

/// A parameter is a choice of choices, by its place.
fn parameter(value: &Value) -> Vec<u8> {
    if value.get("$ref").is_some() {
        return wrapped(|out| put(out, 2, &wrapped(|o| text(o, 1, &value["$ref"]))));
    }
    let inner = match value["in"].as_str() {
        Some("body") => wrapped(|out| put(out, 1, &message(&BODY_PARAMETER, value))),
        Some("path") => wrapped(|out| put(out, 2, &wrapped(|o| put(o, 4, &message(&PATH_PARAMETER, value))))),
        _ => wrapped(|out| put(out, 2, &wrapped(|o| put(o, 3, &message(&QUERY_PARAMETER, value))))),
    };
    wrapped(|out| put(out, 1, &inner))
}

fn response(value: &Value) -> Vec<u8> {
    let mut out = message(&RESPONSE, value);
    if let Some(schema) = value.get("schema") {
        put(&mut out, 2, &wrapped(|o| put(o, 1, &message(&SCHEMA, schema))));
    }
    out
}

fn map(number: u32, value: &Value, encode: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in value.as_object().into_iter().flat_map(Map::iter) {
        put(&mut out, number, &named(name, &encode(value)));
    }
    out
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    wrapped(|out| {
        put(out, 1, name.as_bytes());
        put(out, 2, value);
    })
}

fn any(value: &Value) -> Vec<u8> {
    wrapped(|out| put(out, 2, format!("{value}\n").as_bytes()))
}

fn wrapped(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    fill(&mut out);
    out
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn one_or_more(value: &Value) -> impl Iterator<Item = &Value> {
    let one = value.is_string().then_some(value);
    one.into_iter().chain(items(value))
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    put(out, number, value.as_str().unwrap_or_default().as_bytes());
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == true {
        varint(out, number, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Bytes as `number:content` with the content of the named messages in brackets.
    #[track_caller]
    fn check(of: &Message, value: &Value, expected: &[u8]) {
        assert_eq!(message(of, value), expected, "{value}");
    }

    #[test]
    fn wire_forms() {
        check(&INFO, &json!({"title": "K", "version": "v"}), b"\x0a\x01K\x12\x01v");
        check(&SCHEMA, &json!({"type": "object"}), b"\xb2\x01\x08\x0a\x06object");
        check(
            &SCHEMA,
            &json!({"$ref": "#/a", "x-b": true}),
            b"\x0a\x03#/a\xfa\x01\x0e\x0a\x03x-b\x12\x07\x12\x05true\n",
        );
        check(&SCHEMA, &json!({"minimum": 1}), b"\x49\0\0\0\0\0\0\xf0\x3f");
        let body = json!({"parameters": [{"in": "body", "name": "b", "schema": {}}]});
        check(&PATH, &body, b"\x4a\x0f\x0a\x0d\x0a\x0b\x12\x01b\x1a\x04body\x2a\0");
        let path = json!({"parameters": [{"in": "path", "name": "n", "type": "string"}]});
        check(&PATH, &path, b"\x4a\x17\x0a\x15\x12\x13\x22\x11\x12\x04path\x22\x01n\x2a\x06string");
    }

    #[test]
    fn the_whole_document_has_its_parts() {
        let served: Vec<super::super::Served> = crate::resources::resources()
            .iter()
            .filter(|r| r.served_by_default())
            .map(super::super::Served::from)
            .collect();
        let bytes = encode(&super::super::v2_document(&served, "v1.36.0"));
        assert!(bytes.starts_with(b"\x0a\x032.0") && bytes.len() > 500_000, "{}", bytes.len());
    }
}
