//! Value to message. What is in the value is written, also when it is empty; what is not in it is not written.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::super::CodecError;
use super::super::writer;
use crate::schema::{Field, Schema, Shape, Struct, TypeId, Types, WireField, WireTarget};
use crate::time;

/// Appends the object's bare message to `out`. Unknown fields are left out.
///
/// # Errors
/// The first value whose type the schema does not allow; `out` then holds a part of the message.
pub fn encode_message(schema: &Schema, object: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    Encoder { types: &schema.types }.content(schema.root, object, out, "")
}

struct Encoder<'t> {
    types: &'t Types,
}

fn wrong(field: &str, expected: &str) -> CodecError {
    CodecError::Value { field: field.to_owned(), what: format!("expected {expected}") }
}

impl Encoder<'_> {
    /// The content of a message-like type; `name` is the field it stands in, for errors.
    fn content(&self, id: TypeId, value: &Value, out: &mut Vec<u8>, name: &str) -> Result<(), CodecError> {
        match (&self.types.get(id).shape, value) {
            (Shape::Struct(s), Value::Object(members)) => self.fields(s, &s.wire, members, out),
            (Shape::Struct(_), _) => Err(wrong(name, "an object")),
            (Shape::List(list), Value::Array(items)) => {
                items.iter().try_for_each(|item| self.element(list.item, 1, item, out, name))
            }
            (Shape::Quantity, Value::String(text)) => {
                writer::bytes(out, 1, text.as_bytes());
                Ok(())
            }
            (Shape::Quantity, Value::Number(n)) => {
                writer::bytes(out, 1, n.to_string().as_bytes());
                Ok(())
            }
            (Shape::IntOrString, _) => int_or_string(value, out, name),
            (Shape::Time, Value::String(text)) => timestamp(time::parse_rfc3339(text), out, name),
            (Shape::MicroTime, Value::String(text)) => timestamp(time::parse_rfc3339(text), out, name),
            (Shape::Raw | Shape::FieldsV1 | Shape::Json, value) => {
                writer::bytes(out, 1, value.to_string().as_bytes());
                Ok(())
            }
            (Shape::SchemaOrArray(t), Value::Array(items)) => {
                items.iter().try_for_each(|item| self.element(*t, 2, item, out, name))
            }
            (Shape::SchemaOrBool(_), Value::Bool(allows)) => {
                writer::varint(out, 1, u64::from(*allows));
                Ok(())
            }
            (Shape::SchemaOrBool(t), Value::Object(_)) => {
                // Go sets both: a schema is also a permission.
                writer::varint(out, 1, 1);
                self.element(*t, 2, value, out, name)
            }
            (Shape::SchemaOrStrings(_), Value::Array(items)) => {
                for item in items {
                    let text = item.as_str().ok_or_else(|| wrong(name, "a string"))?;
                    writer::bytes(out, 2, text.as_bytes());
                }
                Ok(())
            }
            (Shape::SchemaOrArray(t) | Shape::SchemaOrStrings(t), Value::Object(_)) => {
                self.element(*t, 1, value, out, name)
            }
            _ => Err(wrong(name, "another type")),
        }
    }

    /// Whether null is a value like any other.
    fn holds_json(&self, id: TypeId) -> bool {
        matches!(self.types.get(id).shape, Shape::Raw | Shape::FieldsV1 | Shape::Json)
    }

    fn fields(
        &self,
        s: &Struct,
        wire: &[WireField],
        members: &Map<String, Value>,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        for field in wire {
            match &field.target {
                WireTarget::Field(index) => {
                    let Some(spec) = s.fields.get(*index as usize) else { continue };
                    if let Some(value) = members.get(spec.name.as_ref()).filter(|v| !v.is_null()) {
                        self.field(spec, field.number, value, out)?;
                    }
                }
                WireTarget::Nested(inner) => {
                    writer::try_message(out, field.number, |out| self.fields(s, inner, members, out))?;
                }
            }
        }
        Ok(())
    }

    fn field(&self, field: &Field, number: u32, value: &Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let name = field.name.as_ref();
        match (&self.types.get(field.ty).shape, value) {
            (Shape::List(list), Value::Array(items)) if !list.wrapped => {
                items.iter().try_for_each(|item| self.element(list.item, number, item, out, name))
            }
            (Shape::List(list), _) if !list.wrapped => Err(wrong(name, "a list")),
            (Shape::Map(item), Value::Object(entries)) => {
                for (key, value) in entries {
                    writer::try_message(out, number, |out| {
                        writer::bytes(out, 1, key.as_bytes());
                        // A null value is Go's zero value: its message is empty.
                        let absent = value.is_null() && !self.holds_json(*item);
                        if absent { Ok(()) } else { self.element(*item, 2, value, out, name) }
                    })?;
                }
                Ok(())
            }
            (Shape::Map(_), _) => Err(wrong(name, "a map")),
            _ => self.element(field.ty, number, value, out, name),
        }
    }

    /// One value under a field number.
    fn element(
        &self,
        id: TypeId,
        number: u32,
        value: &Value,
        out: &mut Vec<u8>,
        name: &str,
    ) -> Result<(), CodecError> {
        match (&self.types.get(id).shape, value) {
            (Shape::String, Value::String(text)) => writer::bytes(out, number, text.as_bytes()),
            (Shape::Bytes, Value::String(text)) => {
                let decoded = STANDARD.decode(text).map_err(|_| wrong(name, "base64"))?;
                writer::bytes(out, number, &decoded);
            }
            (Shape::Bool, Value::Bool(b)) => writer::varint(out, number, u64::from(*b)),
            (Shape::Int32 | Shape::Int64, Value::Number(n)) => {
                writer::int(out, number, n.as_i64().ok_or_else(|| wrong(name, "a whole number"))?);
            }
            (Shape::Double, Value::Number(n)) => writer::double(out, number, n.as_f64().unwrap_or(0.0)),
            (Shape::String | Shape::Bytes, _) => return Err(wrong(name, "a string")),
            (Shape::Bool, _) => return Err(wrong(name, "a boolean")),
            (Shape::Int32 | Shape::Int64 | Shape::Double, _) => return Err(wrong(name, "a number")),
            _ => return writer::try_message(out, number, |out| self.content(id, value, out, name)),
        }
        Ok(())
    }
}

fn int_or_string(value: &Value, out: &mut Vec<u8>, name: &str) -> Result<(), CodecError> {
    match value {
        Value::String(text) => {
            writer::varint(out, 1, 1);
            writer::varint(out, 2, 0);
            writer::bytes(out, 3, text.as_bytes());
        }
        Value::Number(n) => {
            writer::varint(out, 1, 0);
            writer::int(out, 2, n.as_i64().ok_or_else(|| wrong(name, "a whole number"))?);
            writer::bytes(out, 3, b"");
        }
        _ => return Err(wrong(name, "a number or a string")),
    }
    Ok(())
}

fn timestamp(
    parsed: Result<jiff::Timestamp, String>,
    out: &mut Vec<u8>,
    name: &str,
) -> Result<(), CodecError> {
    let t = parsed.map_err(|what| CodecError::Value { field: name.to_owned(), what })?;
    // Whole seconds rounded down, the rest forward in time.
    let (mut seconds, mut nanos) = (t.as_second(), t.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    writer::int(out, 1, seconds);
    writer::int(out, 2, i64::from(nanos));
    Ok(())
}
