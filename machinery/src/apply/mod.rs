//! Server-side apply and the tracking of who owns which field (`metadata.managedFields`).
//!
//! [`apply`] merges a configuration into the live object, gives its fields to the manager, removes what the manager
//! no longer applies and nobody else owns, and reports conflicts. [`track_update`] does the bookkeeping of all other
//! writes. Both work on objects of one version; owners that wrote at another version of the same group are taken to
//! speak of the same field names.

mod element;
mod managers;
mod node;
mod set;
mod update;
mod walk;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::object;
use crate::schema::{Schema, Shape};
use crate::status::StatusError;
use managers::Managers;
use node::Node;

pub use set::FieldSet;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// The `fieldManager` of the request, or what stands before the slash of the user agent.
    pub name: String,
    /// Empty for writes of the object itself.
    pub subresource: String,
    /// The time the entry gets when its fields change.
    pub now: Timestamp,
}

/// Fields that writes of this kind never change, and so never own: `status` for the object itself, `spec` for
/// its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetFields(FieldSet);

impl ResetFields {
    /// From paths of names: `&[&["status"]]`.
    pub fn new(paths: &[&[&str]]) -> Self {
        ResetFields(FieldSet::from_names(paths))
    }

    /// Nothing is reset.
    pub fn none() -> Self {
        ResetFields::default()
    }
}

/// Applies a configuration, as the client sent it, to the live object; `live` is `None` for a creation. The result
/// has its managedFields and still has to be defaulted and validated.
///
/// # Errors
/// 409 with one cause a field that others own, unless `force`; 400 for a configuration with managedFields or of
/// another version; upstream's untyped 500 for one that does not fit the schema.
pub fn apply(
    schema: &Schema,
    api_version: &str,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
    reset: &ResetFields,
) -> Result<Value, StatusError> {
    if object::api_version(config) != api_version {
        return Err(StatusError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {api_version}",
            object::api_version(config)
        )));
    }
    if object::at(config, &["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(StatusError::bad_request("metadata.managedFields must be nil"));
    }
    update::check_config(schema, api_version, config)?;
    let empty = empty_object(schema, config);
    let live = live.unwrap_or(&empty);
    let mut managers =
        managers::decode(object::list_at(live, &["metadata", "managedFields"])).map_err(|error| {
            StatusError::new(
                500,
                crate::status::Reason::Unknown,
                format!("failed to decode managed fields: {error}"),
                None,
            )
        })?;
    let mut bare = live.clone();
    managers::clear(&mut bare);
    let operation = update::Operation { node: Node::root(schema), api_version, manager, reset: &reset.0 };
    if managers.is_empty() {
        operation.before_first_apply(&empty, &bare, &mut managers);
    }
    let mut out = operation.apply(&bare, config, &mut managers, force)?;
    managers::write(&mut out, &managers);
    Ok(out)
}

/// Gives the fields that a write changed to its manager; writes `new`'s managedFields. `old` is `None` for a
/// creation. Never fails: managedFields that cannot be read are those of the live object, or start anew.
pub fn track_update(
    schema: &Schema,
    api_version: &str,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
    reset: &ResetFields,
) {
    let mut managers = decode_live_or_new(old, new, !manager.subresource.is_empty());
    managers::clear(new);
    let exists = old.is_some_and(|o| !object::uid(o).is_empty());
    if managers.is_empty() && exists {
        // Objects whose tracking was given up stay untracked until somebody applies.
        return;
    }
    let empty;
    let live = match old {
        Some(old) => old,
        None => {
            empty = empty_object(schema, new);
            &empty
        }
    };
    let operation = update::Operation { node: Node::root(schema), api_version, manager, reset: &reset.0 };
    // The live object's own managedFields are in its way and hurt nobody: they are never owned.
    operation.update(live, new, &mut managers);
    managers::cap(&mut managers);
    managers::write(new, &managers);
}

/// The owners to start from: those in the request, unless it has none or cannot be read; an explicit empty list
/// (or one empty entry) forgets all.
fn decode_live_or_new(old: Option<&Value>, new: &Value, only_live: bool) -> Managers {
    let live = || {
        let entries = old.map(|o| object::list_at(o, &["metadata", "managedFields"])).unwrap_or_default();
        managers::decode(entries).unwrap_or_default()
    };
    let Some(Value::Array(entries)) = object::at(new, &["metadata", "managedFields"]).filter(|_| !only_live)
    else {
        return live();
    };
    let reset =
        entries.is_empty() || (entries.len() == 1 && entries[0].as_object().is_some_and(Map::is_empty));
    if reset {
        return Managers::new();
    }
    match managers::decode(entries) {
        Ok(managers) if !managers.is_empty() => managers,
        _ => live(),
    }
}

/// What Go has before an object is created: for built-in kinds the fields it writes even when they are empty.
fn empty_object(schema: &Schema, like: &Value) -> Value {
    let mut out = if schema.is_builtin() { zero_struct(schema, 0) } else { Value::Object(Map::new()) };
    for name in ["apiVersion", "kind"] {
        object::set(&mut out, &[name], Value::from(object::text_at(like, &[name])));
    }
    out
}

/// Depth at which empty structs stop: no type nests empty structs deeper.
const ZERO_DEPTH_MAX: u32 = 12;

fn zero_struct(schema: &Schema, depth: u32) -> Value {
    let mut out = Map::new();
    let Some(s) = schema.root().as_struct().filter(|_| depth < ZERO_DEPTH_MAX) else {
        return Value::Object(out);
    };
    for field in &s.fields {
        let list = matches!(schema.types.get(field.ty).shape, Shape::List(_) | Shape::Map(_));
        let value = match &field.default {
            Some(Value::Object(_)) => zero_struct(&schema.at(field.ty), depth + 1),
            Some(default) if is_zero_scalar(default) => default.clone(),
            None if field.always && list && !field.pointer => Value::Null,
            _ => continue,
        };
        out.insert(field.name.to_string(), value);
    }
    Value::Object(out)
}

fn is_zero_scalar(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
