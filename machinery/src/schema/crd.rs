//! Compiling the `openAPIV3Schema` of a CustomResourceDefinition into the structure built-in types have.
//!
//! Expects a structural schema ([`super::structural`] finds what is not); anything it does not understand is
//! treated as "any value", so that compiling never fails but for patterns.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::{Checks, Field, List, ListKind, Pattern, Schema, Shape, Struct, Text, Type, TypeId, Types};
use crate::status::{FieldError, Path};

/// Compiles a schema. `preserve_unknown` is the definition's `preserveUnknownFields`.
///
/// # Errors
/// One error a pattern that is no regular expression.
pub fn from_crd(schema: &Value, preserve_unknown: bool) -> Result<Schema, Vec<FieldError>> {
    let mut compiler = Compiler { types: Types::default(), errors: Vec::new() };
    let root = compiler.node(schema, &Path::new("openAPIV3Schema"));
    if !compiler.errors.is_empty() {
        return Err(compiler.errors);
    }
    let node = &mut compiler.types.nodes[root.0 as usize];
    if !matches!(node.shape, Shape::Struct(_)) {
        node.shape = Shape::Struct(Struct::default());
    }
    // The root is an API object whatever its schema says.
    node.embedded = true;
    node.preserve_unknown |= preserve_unknown;
    Ok(Schema { types: Arc::new(compiler.types), root })
}

/// Compiles a part of a schema that is not a whole object.
pub(super) fn compile_node(schema: &Value) -> Result<Schema, Vec<FieldError>> {
    let mut compiler = Compiler { types: Types::default(), errors: Vec::new() };
    let root = compiler.node(schema, &Path::root());
    if compiler.errors.is_empty() {
        Ok(Schema { types: Arc::new(compiler.types), root })
    } else {
        Err(compiler.errors)
    }
}

struct Compiler {
    types: Types,
    errors: Vec<FieldError>,
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn owned(text: &str) -> Text {
    Cow::Owned(text.to_owned())
}

impl Compiler {
    fn node(&mut self, schema: &Value, path: &Path) -> TypeId {
        let mut ty = Type::new("", self.shape(schema, path));
        ty.atomic = text(schema, "x-kubernetes-map-type") == "atomic";
        ty.nullable = flag(schema, "nullable");
        ty.preserve_unknown = flag(schema, "x-kubernetes-preserve-unknown-fields")
            || schema.get("additionalProperties").and_then(Value::as_bool) == Some(true);
        ty.embedded = flag(schema, "x-kubernetes-embedded-resource");
        ty.default = schema.get("default").cloned();
        ty.checks = self.checks(schema, path).map(Box::new);
        self.types.push(ty)
    }

    fn shape(&mut self, schema: &Value, path: &Path) -> Shape {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Shape::IntOrString;
        }
        let structured = schema.get("properties").is_some() || schema.get("items").is_some();
        match text(schema, "type") {
            "object" => self.object(schema, path),
            "array" => self.list(schema, path),
            "string" => Shape::String,
            "boolean" => Shape::Bool,
            "integer" => Shape::Int64,
            "number" => Shape::Double,
            // Nested value validations leave the type to the schema they belong to.
            _ if structured && schema.get("items").is_some() => self.list(schema, path),
            _ if structured => self.object(schema, path),
            _ if flag(schema, "x-kubernetes-preserve-unknown-fields") => self.object(schema, path),
            _ => Shape::Json,
        }
    }

    fn object(&mut self, schema: &Value, path: &Path) -> Shape {
        if let Some(additional) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            return Shape::Map(self.node(additional, &path.child("additionalProperties")));
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut fields: Vec<Field> = Vec::new();
        for (name, child) in properties.into_iter().flatten() {
            let ty = self.node(child, &path.child("properties").key(name));
            let mut field = Field::new(owned(name), ty);
            field.default = child.get("default").cloned();
            // Custom types merge by RFC 7386 only; the columns stay empty.
            field.always = true;
            fields.push(field);
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if let Ok(index) = fields.binary_search_by(|f| f.name.as_ref().cmp(name)) {
                fields[index].required = true;
            }
        }
        Shape::Struct(Struct { fields, wire: Vec::new() })
    }

    fn list(&mut self, schema: &Value, path: &Path) -> Shape {
        let item = match schema.get("items") {
            Some(items) => self.node(items, &path.child("items")),
            None => self.types.push(Type::new("", Shape::Json)),
        };
        let kind = match text(schema, "x-kubernetes-list-type") {
            "set" => ListKind::Set,
            "map" => ListKind::Map,
            _ => ListKind::Atomic,
        };
        let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(owned).collect();
        let declared = schema.get("x-kubernetes-list-type").is_some();
        Shape::List(List { item, kind, declared, keys, wrapped: false })
    }

    /// The value rules, or `None` when there are none.
    fn checks(&mut self, schema: &Value, path: &Path) -> Option<Checks> {
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let list =
            |name: &str| schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let type_name = match flag(schema, "x-kubernetes-int-or-string") {
            true => Cow::Borrowed("integer,string"),
            false => owned(text(schema, "type")),
        };
        let format = super::formats::supported(&type_name, text(schema, "format"));
        let nested = |this: &mut Self, name: &str| -> Vec<TypeId> {
            let base = path.child(name);
            list(name).iter().enumerate().map(|(i, s)| this.node(s, &base.index(i))).collect()
        };
        Some(Checks {
            all_of: nested(self, "allOf"),
            any_of: nested(self, "anyOf"),
            one_of: nested(self, "oneOf"),
            not: schema.get("not").filter(|n| n.is_object()).map(|n| self.node(n, &path.child("not"))),
            pattern: self.pattern(text(schema, "pattern"), path),
            format: owned(format),
            type_name,
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag(schema, "exclusiveMinimum"),
            exclusive_maximum: flag(schema, "exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag(schema, "uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: list("required").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            enumeration: list("enum").to_vec(),
        })
    }

    fn pattern(&mut self, source: &str, path: &Path) -> Option<Pattern> {
        if source.is_empty() {
            return None;
        }
        match compile_pattern(source) {
            Ok(regex) => Some(Pattern { source: source.to_owned(), regex }),
            Err(error) => {
                let text = format!("must be a valid regular expression, but isn't: {error}");
                self.errors.push(FieldError::invalid(&path.child("pattern"), source, text));
                None
            }
        }
    }
}

/// Largest compiled program of one pattern, in bytes: a definition must not be able to take the server's memory.
const PATTERN_BYTES_MAX: usize = 2 << 20;

/// Compiles a pattern of Go's dialect, whose `\d \s \w` know ASCII only.
pub fn compile_pattern(source: &str) -> Result<regex::Regex, String> {
    let translated = ascii_classes(source);
    regex::RegexBuilder::new(&translated).size_limit(PATTERN_BYTES_MAX).build().map_err(|e| match e {
        regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().to_owned(),
        other => other.to_string(),
    })
}

fn ascii_classes(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut in_class = false;
    // A closing bracket right after the opening one (or its caret) is a member.
    let mut class_body = 0;
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let Some(escaped) = chars.next() else {
                    out.push('\\');
                    break;
                };
                let members = match escaped.to_ascii_lowercase() {
                    'd' => "0-9",
                    'w' => "0-9A-Za-z_",
                    's' => "\\t\\n\\f\\r ",
                    _ => "",
                };
                match (members.is_empty(), escaped.is_ascii_uppercase(), in_class) {
                    (true, ..) | (_, true, true) => {
                        out.push('\\');
                        out.push(escaped);
                    }
                    (_, false, true) => out.push_str(members),
                    (_, negated, false) => {
                        out.push_str(if negated { "[^" } else { "[" });
                        out.push_str(members);
                        out.push(']');
                    }
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.as_str().starts_with('^') {
                    chars.next();
                    out.push('^');
                }
                class_body = out.len();
            }
            // Go takes a bracket inside a class as a member; Rust would nest.
            '[' if !chars.as_str().starts_with(':') => out.push_str("\\["),
            ']' if in_class => {
                in_class = out.len() == class_body;
                out.push_str(if in_class { "\\]" } else { "]" });
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_go_s() {
        for (pattern, good, bad) in [
            (r"^\d+$", "12", "\u{0663}"),
            (r"^[\w-]+$", "a-b_1", "é"),
            (r"^[^\s]+$", "a", "a b"),
            (r"^[][]$", "]", "a"),
            (r"^a[.]b$", "a.b", "acb"),
        ] {
            let regex = compile_pattern(pattern).expect("a pattern");
            assert!(regex.is_match(good) && !regex.is_match(bad), "{pattern}");
        }
        let errors = from_crd(
            &json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            false,
        );
        assert_eq!(errors.unwrap_err()[0].field, "openAPIV3Schema.properties[a].pattern");
    }

    proptest! {
        #[test]
        fn never_panics(pattern in "[\\\\\\[\\]^dwDWs(|a-c:)*+?-]{0,16}") {
            let _ = compile_pattern(&pattern);
        }
    }
}
