//! What Go's typed decoding does to a built-in object, in one pass over its JSON form.
//!
//! Wrong types are errors in Go's words; unknown fields go away and are reported; nulls and empty values that Go
//! would not write again go away silently; times, quantities and base64 get their canonical text. After the pass
//! the object is what upstream would have written back. Custom objects go through [`super::prune`] instead.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::{Field, List, Schema, Shape, Struct, Type, TypeId, Types};
use crate::quantity::Quantity;
use crate::status::StatusError;
use crate::{gotext, time};

/// Decodes in place. Returns the paths of unknown fields (`spec.containers[0].foo`).
///
/// # Errors
/// Go's text for the first value of a wrong type; the object is then half done and must be dropped.
pub fn decode(schema: &Schema, object: &mut Value) -> Result<Vec<String>, String> {
    let mut pass = Pass { types: &schema.types, unknown: Vec::new() };
    pass.value(schema.root, object, "", None)?;
    Ok(pass.unknown)
}

/// The 400 that wraps a decoding error, with upstream's sentence.
pub fn bad_request(kind: &str, api_version: &str, text: &str) -> StatusError {
    let version = crate::resources::split_api_version(api_version).1;
    let version = gotext::quote(version);
    StatusError::bad_request(format!("{kind} in version {version} cannot be handled as a {kind}: {text}"))
}

/// Most strict errors that one object can have; upstream stops counting there too.
const UNKNOWN_MAX: usize = 100;

/// One step from the root to the value being decoded; printed only when something is wrong.
#[derive(Clone, Copy)]
struct Frame<'a> {
    parent: Option<&'a Frame<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    /// A struct's field, with the struct's definition name, and whether Go has it in an embedded struct.
    Field(&'a str, &'a str, bool),
    Key(&'a str),
    Index(usize),
}

struct Pass<'t> {
    types: &'t Types,
    unknown: Vec<String>,
}

impl<'t> Pass<'t> {
    /// `go` is Go's name of the type where it differs from what the schema says, or empty.
    fn value(
        &mut self,
        id: TypeId,
        value: &mut Value,
        go: &str,
        at: Option<&Frame<'_>>,
    ) -> Result<(), String> {
        let ty = self.types.get(id);
        match (&ty.shape, &mut *value) {
            (Shape::Struct(s), Value::Object(members)) => self.object(ty, s, members, at),
            (Shape::Map(item), Value::Object(members)) => self.map(*item, members, go, at),
            (Shape::List(list), Value::Array(items)) => self.list(list, items, go, at),
            (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => Ok(()),
            (Shape::Bytes, Value::String(text)) => check_base64(text),
            (Shape::Int32, Value::Number(n)) => {
                let fits = n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits { Ok(()) } else { Err(self.mismatch(&format!("number {n}"), id, go, at)) }
            }
            (Shape::Int64, Value::Number(n)) => {
                if n.is_i64() {
                    Ok(())
                } else {
                    Err(self.mismatch(&format!("number {n}"), id, go, at))
                }
            }
            (Shape::Double, Value::Number(_)) | (Shape::Json | Shape::FieldsV1 | Shape::Raw, _) => Ok(()),
            (Shape::Quantity, v) => canonical_quantity(v),
            (Shape::Time, Value::String(text)) => canonical_time(text),
            (Shape::MicroTime, Value::String(text)) => canonical_micro_time(text),
            (Shape::Time | Shape::MicroTime, other) => Err(self.wrong(other, "string", at)),
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::IntOrString, Value::Number(n)) => {
                let fits = n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits { Ok(()) } else { Err(message(&format!("number {n}"), "int32", at)) }
            }
            (Shape::IntOrString, other) => Err(self.wrong(other, "int32", at)),
            (Shape::SchemaOrArray(t), Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(*t, item, "", Some(&Frame { parent: at, step: Step::Index(i) }))?;
                }
                Ok(())
            }
            (Shape::SchemaOrBool(_), Value::Bool(_)) => Ok(()),
            (Shape::SchemaOrStrings(_), Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
            (
                Shape::SchemaOrArray(t) | Shape::SchemaOrBool(t) | Shape::SchemaOrStrings(t),
                Value::Object(_),
            ) => self.value(*t, value, "", at),
            (Shape::SchemaOrBool(_), _) => Err("boolean or JSON schema expected".to_owned()),
            (_, other) => {
                let found = json_kind(other);
                Err(self.mismatch(found, id, go, at))
            }
        }
    }

    fn object(
        &mut self,
        ty: &'t Type,
        s: &'t Struct,
        members: &mut Map<String, Value>,
        at: Option<&Frame<'_>>,
    ) -> Result<(), String> {
        let mut failed = None;
        members.retain(|name, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = s.field(name) else {
                self.report_unknown(name, at);
                return false;
            };
            if value.is_null() {
                return false;
            }
            let frame =
                Frame { parent: at, step: Step::Field(&field.name, &ty.name, field.number.len() > 1) };
            match self.value(field.ty, value, &field.go_type, Some(&frame)) {
                Ok(()) => !self.is_omitted(field, value),
                Err(text) => {
                    failed = Some(text);
                    true
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// Whether Go would leave the field out when it writes the object.
    fn is_omitted(&self, field: &Field, value: &Value) -> bool {
        if field.pointer || field.always {
            return false;
        }
        let struct_like = |id| {
            matches!(self.types.get(id).shape, Shape::Struct(_) | Shape::Raw | Shape::FieldsV1 | Shape::Json)
        };
        match value {
            Value::String(text) => text.is_empty(),
            Value::Number(n) => {
                n.as_f64() == Some(0.0) && !matches!(self.types.get(field.ty).shape, Shape::IntOrString)
            }
            Value::Bool(b) => !b,
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty() && !struct_like(field.ty),
            Value::Null => true,
        }
    }

    fn map(
        &mut self,
        item: TypeId,
        members: &mut Map<String, Value>,
        go: &str,
        at: Option<&Frame<'_>>,
    ) -> Result<(), String> {
        let inner = go.strip_prefix("map[").and_then(|g| g.split_once(']')).map_or("", |g| g.1);
        for (key, value) in members.iter_mut() {
            if value.is_null() {
                *value = self.zero(item);
                continue;
            }
            self.value(item, value, inner, Some(&Frame { parent: at, step: Step::Key(key) }))?;
        }
        Ok(())
    }

    fn list(
        &mut self,
        list: &List,
        items: &mut [Value],
        go: &str,
        at: Option<&Frame<'_>>,
    ) -> Result<(), String> {
        let inner = go.strip_prefix("[]").unwrap_or("");
        for (i, value) in items.iter_mut().enumerate() {
            if value.is_null() {
                *value = self.zero(list.item);
                continue;
            }
            self.value(list.item, value, inner, Some(&Frame { parent: at, step: Step::Index(i) }))?;
        }
        Ok(())
    }

    /// What Go writes for an element that was null.
    fn zero(&self, id: TypeId) -> Value {
        match self.types.get(id).shape {
            Shape::String | Shape::Bytes => Value::String(String::new()),
            Shape::Bool => Value::Bool(false),
            Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
            Shape::Quantity => Value::String("0".to_owned()),
            Shape::Struct(_) => Value::Object(Map::new()),
            _ => Value::Null,
        }
    }

    fn report_unknown(&mut self, name: &str, at: Option<&Frame<'_>>) {
        if self.unknown.len() < UNKNOWN_MAX {
            let mut path = String::new();
            strict_path(&mut path, at);
            push_name(&mut path, name);
            self.unknown.push(path);
        }
    }

    fn mismatch(&self, found: &str, id: TypeId, go: &str, at: Option<&Frame<'_>>) -> String {
        let expected = if go.is_empty() { go_name(self.types, id) } else { go.to_owned() };
        message(found, &expected, at)
    }

    fn wrong(&self, found: &Value, expected: &str, at: Option<&Frame<'_>>) -> String {
        message(json_kind(found), expected, at)
    }
}

/// Go's name of a type as the schema suggests it.
pub fn go_name(types: &Types, id: TypeId) -> String {
    let ty = types.get(id);
    if !ty.name.is_empty() {
        return short_name(&ty.name).to_owned();
    }
    match &ty.shape {
        Shape::List(list) => format!("[]{}", go_name(types, list.item)),
        Shape::Map(item) => format!("map[string]{}", go_name(types, *item)),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Double => "float64".to_owned(),
        _ => "string".to_owned(),
    }
}

/// `v1.Pod` of `io.k8s.api.core.v1.Pod`.
fn short_name(definition: &str) -> &str {
    let mut dots = definition.rmatch_indices('.');
    dots.next();
    dots.next().map_or(definition, |(i, _)| &definition[i + 1..])
}

/// What Go calls a JSON value of that type.
fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn message(found: &str, expected: &str, at: Option<&Frame<'_>>) -> String {
    let mut names = Vec::new();
    let mut owner = None;
    let mut next = at;
    while let Some(frame) = next {
        if let Step::Field(name, definition, embedded) = frame.step {
            owner = owner.or(Some(definition));
            names.push(name);
            if embedded {
                names.extend(embedded_name(definition));
            }
        }
        next = frame.parent;
    }
    let Some(owner) = owner else {
        return format!("json: cannot unmarshal {found} into Go value of type {expected}");
    };
    names.reverse();
    let (owner, path) = (owner.rsplit('.').next().unwrap_or(owner), names.join("."));
    format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}")
}

/// The embedded struct that holds a definition's inlined fields: Go names it in the path.
fn embedded_name(definition: &str) -> Option<&'static str> {
    Some(match definition.rsplit('.').next()? {
        "EphemeralContainer" => "EphemeralContainerCommon",
        "IngressRule" => "IngressRuleValue",
        "NamedRuleWithOperations" => "RuleWithOperations",
        "PersistentVolumeSpec" => "PersistentVolumeSource",
        "Probe" => "ProbeHandler",
        "RuleWithOperations" => "Rule",
        "Volume" => "VolumeSource",
        name if name.starts_with("ConfigMap") || name.starts_with("Secret") => "LocalObjectReference",
        name if name.starts_with("Device") => "DeviceConfiguration",
        _ => return None,
    })
}

fn strict_path(out: &mut String, at: Option<&Frame<'_>>) {
    let Some(frame) = at else { return };
    strict_path(out, frame.parent);
    match frame.step {
        Step::Field(name, ..) | Step::Key(name) => push_name(out, name),
        Step::Index(i) => {
            let _ = write!(out, "[{i}]");
        }
    }
}

fn push_name(out: &mut String, name: &str) {
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(name);
}

fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    let quantity = match &*value {
        Value::String(_) | Value::Number(_) => Quantity::from_value(value).map_err(|e| e.to_string())?,
        other => Quantity::parse(&other.to_string()).map_err(|e| e.to_string())?,
    };
    let canonical = quantity.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn canonical_time(text: &mut String) -> Result<(), String> {
    // The common form is already canonical: 20 bytes ending in Z.
    let t = time::parse_rfc3339(text)?;
    if text.len() != 20 {
        *text = time::format_time(t);
    }
    Ok(())
}

fn canonical_micro_time(text: &mut String) -> Result<(), String> {
    let t = time::parse_micro(text)?;
    if !text.ends_with('Z') {
        *text = time::format_micro(t);
    }
    Ok(())
}

/// Go's standard encoding with padding; newlines are skipped.
fn check_base64(text: &mut String) -> Result<(), String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::for_kind;

    fn run(kind: (&str, &str, &str), mut object: Value) -> (Result<Vec<String>, String>, Value) {
        let schema = for_kind(kind.0, kind.1, kind.2).expect("a known kind");
        (decode(&schema, &mut object), object)
    }

    #[test]
    fn normalizes() {
        let (unknown, object) = run(
            ("", "v1", "Pod"),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "labels": {}, "creationTimestamp": null, "foo": 1},
                "spec": {
                    "hostNetwork": false, "priority": 0, "nodeName": "",
                    "containers": [{"name": "", "bar": 1, "resources": {"limits": {"cpu": "1000m", "memory": 1024}}, "env": [{"name": "x", "value": ""}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                    "tolerations": null
                },
                "status": {}
            }),
        );
        assert_eq!(unknown, Ok(vec!["metadata.foo".to_owned(), "spec.containers[0].bar".to_owned()]));
        assert_eq!(
            object,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a"},
                "spec": {
                    "priority": 0,
                    "containers": [{"name": "", "resources": {"limits": {"cpu": "1", "memory": "1024"}}, "env": [{"name": "x"}]}],
                    "volumes": [{"name": "v", "emptyDir": {}}]
                },
                "status": {}
            })
        );
    }

    #[test]
    fn type_errors() {
        for (object, text) in [
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": "x"}}}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"imagePullPolicy": 1}]}}}}),
                "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.imagePullPolicy of type v1.PullPolicy",
            ),
            (
                json!({"spec": {"template": {"spec": {"volumes": [{"hostPath": 1}]}}}}),
                "json: cannot unmarshal number into Go struct field Volume.spec.template.spec.volumes.VolumeSource.hostPath of type v1.HostPathVolumeSource",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"creationTimestamp": "x"}}),
                r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
            ),
        ] {
            assert_eq!(run(("apps", "v1", "Deployment"), object).0, Err(text.to_owned()));
        }
        let (result, _) = run(("", "v1", "Secret"), json!({"data": {"a": "%"}}));
        assert_eq!(result, Err("illegal base64 data at input byte 0".to_owned()));
        assert_eq!(
            bad_request("Deployment", "apps/v1", "x").message(),
            r#"Deployment in version "v1" cannot be handled as a Deployment: x"#
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9]{0,8}".prop_map(Value::from),
        ];
        let names = prop_oneof![
            Just("metadata".to_owned()),
            Just("spec".to_owned()),
            Just("containers".to_owned()),
            Just("template".to_owned()),
            Just("labels".to_owned()),
            Just("ports".to_owned()),
            "[a-z]{1,6}"
        ];
        leaf.prop_recursive(6, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names.clone(), inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn second_pass_changes_nothing(mut object in any_json()) {
            let schema = for_kind("apps", "v1", "Deployment").expect("a known kind");
            if decode(&schema, &mut object).is_ok() {
                let once = object.clone();
                prop_assert_eq!(decode(&schema, &mut object), Ok(Vec::new()));
                prop_assert_eq!(once, object);
            }
        }
    }
}
