//! Message to value: the field numbers of the schema say what each field is.
//!
//! Go writes plain (non-pointer) fields even when they are empty; those that it would leave out of JSON are left
//! out of the value. Fields nobody knows are passed over, as Go does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::super::reader::{BYTES, FIXED64, Reader, Tag};
use super::super::{CodecError, DEPTH_MAX, MAGIC};
use crate::schema::{Field, List, Schema, Shape, Struct, TypeId, Types, WireField, WireTarget};
use crate::time;

/// Decodes a bare message of the schema's type.
pub fn decode_message(schema: &Schema, message: &[u8]) -> Result<Value, CodecError> {
    Decoder { types: &schema.types }.value(schema.root, message, 0)
}

struct Decoder<'t> {
    types: &'t Types,
}

impl Decoder<'_> {
    /// A value whose content is a message.
    fn value(&self, id: TypeId, message: &[u8], depth: u32) -> Result<Value, CodecError> {
        if depth > DEPTH_MAX {
            return Err(CodecError::Depth);
        }
        match &self.types.get(id).shape {
            Shape::Struct(s) => {
                let mut members = Map::new();
                self.fields(s, &s.wire, message, &mut members, depth)?;
                Ok(Value::Object(members))
            }
            Shape::List(list) => self.wrapped(list, message, depth),
            Shape::Quantity => Ok(Value::String(quantity(message)?)),
            Shape::IntOrString => int_or_string(message),
            Shape::Time => timestamp(message, false),
            Shape::MicroTime => timestamp(message, true),
            Shape::Raw | Shape::FieldsV1 | Shape::Json => raw(message, depth),
            Shape::SchemaOrArray(t) => self.either(*t, message, depth, Either::Array),
            Shape::SchemaOrBool(t) => self.either(*t, message, depth, Either::Bool),
            Shape::SchemaOrStrings(t) => self.either(*t, message, depth, Either::Strings),
            _ => Err(CodecError::WireType(BYTES)),
        }
    }

    fn fields(
        &self,
        s: &Struct,
        wire: &[WireField],
        message: &[u8],
        members: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), CodecError> {
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            let Ok(found) = wire.binary_search_by_key(&tag.number, |w| w.number) else {
                reader.skip(tag)?;
                continue;
            };
            match &wire[found].target {
                WireTarget::Nested(inner) => {
                    let message = reader.bytes(tag)?;
                    self.fields(s, inner, message, members, depth + 1)?;
                }
                WireTarget::Field(index) => {
                    if let Some(field) = s.fields.get(*index as usize) {
                        self.field(field, tag, &mut reader, members, depth)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        tag: Tag,
        reader: &mut Reader<'_>,
        members: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), CodecError> {
        let ty = self.types.get(field.ty);
        match &ty.shape {
            Shape::List(list) if !list.wrapped => {
                let items = slot(members, field, || Value::Array(Vec::new()));
                let Value::Array(items) = items else { return reader.skip(tag) };
                self.repeated(list.item, tag, reader, items, depth)
            }
            Shape::Map(item) => {
                let (key, value) = self.entry(*item, reader.bytes(tag)?, depth)?;
                if let Value::Object(entries) = slot(members, field, || Value::Object(Map::new())) {
                    entries.insert(key, value);
                }
                Ok(())
            }
            shape if is_scalar(shape) => {
                let value = scalar(shape, tag, reader)?;
                if field.pointer || field.always || !is_zero(&value) {
                    members.insert(field.name.to_string(), value);
                }
                Ok(())
            }
            _ => {
                let value = self.value(field.ty, reader.bytes(tag)?, depth + 1)?;
                // A zero time or an empty raw value is Go's null.
                if !value.is_null() {
                    members.insert(field.name.to_string(), value);
                }
                Ok(())
            }
        }
    }

    /// One occurrence of a repeated field: one element, or several packed numbers.
    fn repeated(
        &self,
        item: TypeId,
        tag: Tag,
        reader: &mut Reader<'_>,
        items: &mut Vec<Value>,
        depth: u32,
    ) -> Result<(), CodecError> {
        let shape = &self.types.get(item).shape;
        if is_scalar(shape) {
            let numeric = !matches!(shape, Shape::String | Shape::Bytes);
            if numeric && tag.wire == BYTES {
                let mut packed = Reader::new(reader.bytes(tag)?);
                let wire = if matches!(shape, Shape::Double) { FIXED64 } else { 0 };
                while !packed.is_empty() {
                    items.push(scalar(shape, Tag { number: tag.number, wire }, &mut packed)?);
                }
                return Ok(());
            }
            items.push(scalar(shape, tag, reader)?);
            return Ok(());
        }
        items.push(self.value(item, reader.bytes(tag)?, depth + 1)?);
        Ok(())
    }

    fn entry(&self, item: TypeId, message: &[u8], depth: u32) -> Result<(String, Value), CodecError> {
        let shape = &self.types.get(item).shape;
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => key = reader.text(tag)?.to_owned(),
                2 if is_scalar(shape) => value = Some(scalar(shape, tag, &mut reader)?),
                2 => value = Some(self.value(item, reader.bytes(tag)?, depth + 1)?),
                _ => reader.skip(tag)?,
            }
        }
        let value = match value {
            Some(value) => value,
            None if is_scalar(shape) => zero(shape),
            None => self.value(item, &[], depth + 1)?,
        };
        Ok((key, value))
    }

    /// A list that has a message of its own.
    fn wrapped(&self, list: &List, message: &[u8], depth: u32) -> Result<Value, CodecError> {
        let mut items = Vec::new();
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag.number {
                1 => self.repeated(list.item, tag, &mut reader, &mut items, depth)?,
                _ => reader.skip(tag)?,
            }
        }
        Ok(Value::Array(items))
    }

    fn either(&self, id: TypeId, message: &[u8], depth: u32, kind: Either) -> Result<Value, CodecError> {
        let (mut schema, mut items, mut allows) = (None, Vec::new(), false);
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match (kind, tag.number) {
                (Either::Bool, 1) => allows = reader.varint(tag)? != 0,
                (Either::Bool, 2) | (Either::Array | Either::Strings, 1) => {
                    schema = Some(self.value(id, reader.bytes(tag)?, depth + 1)?);
                }
                (Either::Array, 2) => items.push(self.value(id, reader.bytes(tag)?, depth + 1)?),
                (Either::Strings, 2) => items.push(Value::String(reader.text(tag)?.to_owned())),
                _ => reader.skip(tag)?,
            }
        }
        Ok(match (schema, kind) {
            (Some(schema), _) => schema,
            (None, Either::Bool) => Value::Bool(allows),
            (None, Either::Array | Either::Strings) => Value::Array(items),
        })
    }
}

/// What stands beside a schema in the types that hold one or something else.
#[derive(Clone, Copy)]
enum Either {
    Array,
    Bool,
    Strings,
}

/// The member of a repeated field or map, made on its first element.
fn slot<'m>(
    members: &'m mut Map<String, Value>,
    field: &Field,
    make: impl FnOnce() -> Value,
) -> &'m mut Value {
    members.entry(field.name.as_ref()).or_insert_with(make)
}

fn is_scalar(shape: &Shape) -> bool {
    matches!(shape, Shape::String | Shape::Bytes | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double)
}

fn scalar(shape: &Shape, tag: Tag, reader: &mut Reader<'_>) -> Result<Value, CodecError> {
    Ok(match shape {
        Shape::Bytes => Value::String(STANDARD.encode(reader.bytes(tag)?)),
        Shape::Bool => Value::Bool(reader.varint(tag)? != 0),
        // Go truncates to the field's width.
        Shape::Int32 => Value::from(reader.varint(tag)? as i32),
        Shape::Int64 => Value::from(reader.varint(tag)?.cast_signed()),
        Shape::Double if tag.wire == FIXED64 => {
            Number::from_f64(reader.raw_double()?).map_or(Value::Null, Value::Number)
        }
        Shape::Double => return Err(CodecError::WireType(tag.wire)),
        _ => Value::String(reader.text(tag)?.to_owned()),
    })
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double => Value::from(0),
        _ => Value::String(String::new()),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn quantity(message: &[u8]) -> Result<String, CodecError> {
    let mut text = "";
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => text = reader.text(tag)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(if text.is_empty() { "0".to_owned() } else { text.to_owned() })
}

fn int_or_string(message: &[u8]) -> Result<Value, CodecError> {
    let (mut kind, mut number, mut text) = (0, 0i32, "");
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => kind = reader.varint(tag)?,
            2 => number = reader.varint(tag)? as i32,
            3 => text = reader.text(tag)?,
            _ => reader.skip(tag)?,
        }
    }
    Ok(if kind == 1 { Value::from(text) } else { Value::from(number) })
}

/// Null for an empty message, which is Go's zero time.
fn timestamp(message: &[u8], micro: bool) -> Result<Value, CodecError> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => seconds = reader.varint(tag)?.cast_signed(),
            2 => nanos = reader.varint(tag)? as i32,
            _ => reader.skip(tag)?,
        }
    }
    let nanos = nanos.clamp(0, 999_999_999);
    let t = Timestamp::new(seconds, nanos).map_err(|_| CodecError::Overflow)?;
    Ok(Value::String(if micro { time::format_micro(t) } else { time::format_time(t) }))
}

/// JSON text, or a whole protobuf body, inside bytes.
fn raw(message: &[u8], depth: u32) -> Result<Value, CodecError> {
    let mut content: &[u8] = &[];
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.number {
            1 => content = reader.bytes(tag)?,
            _ => reader.skip(tag)?,
        }
    }
    if content.is_empty() {
        return Ok(Value::Null);
    }
    if content.starts_with(MAGIC) {
        return if depth > 4 {
            Err(CodecError::Depth)
        } else {
            super::super::decode(content).map(|d| d.value)
        };
    }
    serde_json::from_slice(content)
        .map_err(|e| CodecError::Value { field: "raw".to_owned(), what: e.to_string() })
}
