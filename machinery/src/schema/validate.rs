//! Checking the values of custom objects against their schema, with the OpenAPI validator's messages.
//!
//! On update, a value that did not change is not checked again (ratcheting): an object stored before its schema
//! became stricter can still be changed elsewhere. Uniqueness in `set` and `map` lists is checked here too.

mod lists;
mod scalars;

use serde_json::{Map, Value};

use super::{Checks, Schema, Shape, Struct, Type, TypeId, Types};
use crate::gotext::quote;
use crate::status::{FieldError, Path};

/// All complaints about a new object.
pub fn validate(schema: &Schema, object: &Value) -> Vec<FieldError> {
    run(schema, object, None)
}

/// All complaints about the changed parts of an object.
pub fn validate_update(schema: &Schema, new: &Value, old: &Value) -> Vec<FieldError> {
    run(schema, new, Some(old))
}

fn run(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut pass = Pass { types: &schema.types, errors: Vec::new() };
    pass.value(schema.root, object, old, "");
    lists::check(&schema.types, schema.root, object, old, &Path::root(), &mut pass.errors);
    pass.errors
}

/// One walk. Paths are dotted names as the validator prints them, empty at the root.
struct Pass<'t> {
    types: &'t Types,
    errors: Vec<FieldError>,
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Pass<'_> {
    fn value(&mut self, id: TypeId, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        let ty = self.types.get(id);
        if let Some(checks) = &ty.checks {
            self.type_of(checks, ty.nullable, value, path);
            if !value.is_null() {
                self.composites(checks, value, path);
                scalars::check(checks, value, path, &mut self.errors);
            }
            enumeration(checks, value, path, &mut self.errors);
        }
        match (&ty.shape, value) {
            (Shape::Struct(s), Value::Object(members)) => self.object(ty, s, members, old, path),
            (Shape::Map(item), Value::Object(members)) => {
                for (key, value) in members {
                    self.value(*item, value, old.and_then(|o| o.get(key)), &format!("{path}.{key}"));
                }
                self.properties(ty, members, path);
            }
            (Shape::List(list), Value::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    let before = lists::correlate(list, item, old);
                    self.value(list.item, item, before, &format!("{path}[{i}]"));
                }
                if let Some(checks) = &ty.checks {
                    lists::sizes(checks, items, path, &mut self.errors);
                }
            }
            (_, Value::Object(members)) => self.properties(ty, members, path),
            _ => {}
        }
    }

    fn object(
        &mut self,
        ty: &Type,
        s: &Struct,
        members: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
    ) {
        for (name, value) in members {
            if let Some(field) = s.field(name) {
                self.value(field.ty, value, old.and_then(|o| o.get(name)), &join(path, name));
            }
        }
        self.properties(ty, members, path);
        if ty.embedded && !path.is_empty() {
            self.embedded(members, path);
        }
    }

    /// Rules about which members there are.
    fn properties(&mut self, ty: &Type, members: &Map<String, Value>, path: &str) {
        let Some(checks) = &ty.checks else { return };
        let count = members.len() as u64;
        let at = at(path);
        if let Some(min) = checks.min_properties.filter(|min| count < *min) {
            let text = format!("{} should have at least {min} properties", body(path));
            self.errors.push(FieldError::invalid(&at, count, text));
        }
        if let Some(max) = checks.max_properties.filter(|max| count > *max) {
            self.errors.push(FieldError::too_many(
                &at,
                members.len(),
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
        for name in checks.required.iter().filter(|n| !members.contains_key(n.as_str())) {
            self.errors.push(FieldError::required(&join(path, name), ""));
        }
    }

    /// An object inside the object must say what it is.
    fn embedded(&mut self, members: &Map<String, Value>, path: &str) {
        for name in ["apiVersion", "kind"] {
            let empty = members.get(name).is_none_or(|v| v.as_str() == Some("") || v.is_null());
            if empty {
                self.errors.push(FieldError::required(&join(path, name), "must not be empty"));
            }
        }
    }

    fn type_of(&mut self, checks: &Checks, nullable: bool, value: &Value, path: &str) {
        if checks.type_name.is_empty() {
            return;
        }
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let whole = value.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0);
        let fits = checks.type_name.split(',').any(|t| {
            t == found
                || (t == "number" && found == "integer")
                || (t == "integer" && found == "number" && whole)
        });
        if fits || (nullable && value.is_null()) {
            return;
        }
        let text = format!("{} must be of type {}: {}", body(path), checks.type_name, quote(found));
        self.errors.push(FieldError::type_invalid(&at(path), found, text));
    }

    fn failures(&self, id: TypeId, value: &Value, path: &str) -> Vec<FieldError> {
        let mut pass = Pass { types: self.types, errors: Vec::new() };
        pass.value(id, value, None, path);
        pass.errors
    }

    /// allOf, anyOf, oneOf and not. Their own complaints name the place in the text, not as the field.
    fn composites(&mut self, checks: &Checks, value: &Value, path: &str) {
        let place = quote(path);
        let complain = |errors: &mut Vec<FieldError>, text: String| {
            errors.push(FieldError::invalid(&Path::root(), "", text));
        };
        if !checks.any_of.is_empty() {
            let mut results = checks.any_of.iter().map(|id| self.failures(*id, value, path));
            let first = results.next().unwrap_or_default();
            if !first.is_empty() && !results.any(|r| r.is_empty()) {
                complain(&mut self.errors, format!("{place} must validate at least one schema (anyOf)"));
                self.errors.extend(first);
            }
        }
        if !checks.one_of.is_empty() {
            let results: Vec<_> = checks.one_of.iter().map(|id| self.failures(*id, value, path)).collect();
            let valid = results.iter().filter(|r| r.is_empty()).count();
            if valid != 1 {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                complain(
                    &mut self.errors,
                    format!("{place} must validate one and only one schema (oneOf). {found}"),
                );
                if valid == 0 {
                    self.errors.extend(results.into_iter().next().unwrap_or_default());
                }
            }
        }
        let results: Vec<_> = checks.all_of.iter().map(|id| self.failures(*id, value, path)).collect();
        let valid = results.iter().filter(|r| r.is_empty()).count();
        if valid != results.len() {
            let more = if valid == 0 { ". None validated" } else { "" };
            self.errors.extend(results.into_iter().flatten());
            complain(&mut self.errors, format!("{place} must validate all the schemas (allOf){more}"));
        }
        if checks.not.is_some_and(|id| self.failures(id, value, path).is_empty()) {
            complain(&mut self.errors, format!("{place} must not validate the schema (not)"));
        }
    }
}

/// The path as a field of an error; the root prints as upstream's nil path.
fn at(path: &str) -> Path {
    if path.is_empty() { Path::root() } else { Path::new(path.trim_start_matches('.')) }
}

/// How messages begin.
fn body(path: &str) -> String {
    format!("{path} in body")
}

fn enumeration(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if checks.enumeration.is_empty() || checks.enumeration.contains(value) {
        return;
    }
    let shown: Vec<String> = checks
        .enumeration
        .iter()
        .map(|v| v.as_str().map_or_else(|| crate::gotext::json(v), str::to_owned))
        .collect();
    errors.push(FieldError::not_supported(&at(path), value.clone(), &shown));
}

#[cfg(test)]
mod tests;
