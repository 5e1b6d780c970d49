//! Rules for lists: sizes, uniqueness of `set` elements and `map` keys, and which old element is which new one.

use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::{at, body};
use crate::schema::{Checks, List, ListKind, Shape, TypeId, Types};
use crate::status::{FieldError, Path};

/// The old element with the same keys, for lists that have keys.
pub(super) fn correlate<'a>(list: &List, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    if list.kind != ListKind::Map {
        return None;
    }
    let same =
        |candidate: &&Value| list.keys.iter().all(|k| candidate.get(k.as_ref()) == item.get(k.as_ref()));
    old?.as_array()?.iter().find(same)
}

/// minItems, maxItems and uniqueItems.
pub(super) fn sizes(checks: &Checks, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let count = items.len() as u64;
    if let Some(min) = checks.min_items.filter(|min| count < *min) {
        let why = format!("{} should have at least {min} items", body(path));
        errors.push(FieldError::invalid(&at(path), count, why));
    }
    if let Some(max) = checks.max_items.filter(|max| count > *max) {
        errors.push(FieldError::too_many(&at(path), items.len(), usize::try_from(max).unwrap_or(usize::MAX)));
    }
    if checks.unique_items && !repeated(items.iter()).is_empty() {
        errors.push(FieldError::invalid(
            &at(path),
            "",
            format!("{} shouldn't contain duplicates", body(path)),
        ));
    }
}

/// Checks the list types below the value. Unchanged parts are left alone.
pub(super) fn check(
    types: &Types,
    id: TypeId,
    value: &Value,
    old: Option<&Value>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) {
        return;
    }
    match (&types.get(id).shape, value) {
        (Shape::Struct(s), Value::Object(members)) => {
            for (name, child) in members {
                if let Some(field) = s.field(name).filter(|_| child.is_object() || child.is_array()) {
                    let before = old.and_then(|o| o.get(name));
                    check(types, field.ty, child, before, &path.child(name), errors);
                }
            }
        }
        (Shape::Map(item), Value::Object(members)) => {
            for (key, child) in members {
                check(types, *item, child, old.and_then(|o| o.get(key)), &path.key(key), errors);
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            match list.kind {
                ListKind::Set => {
                    for i in repeated(items.iter()) {
                        errors.push(FieldError::duplicate(&path.index(i), items[i].clone()));
                    }
                }
                ListKind::Map => unique_keys(list, items, path, errors),
                ListKind::Atomic => {}
            }
            for (i, child) in items.iter().enumerate() {
                check(types, list.item, child, correlate(list, child, old), &path.index(i), errors);
            }
        }
        _ => {}
    }
}

fn unique_keys(list: &List, items: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(i) = items.iter().position(|x| !x.is_object() && !x.is_null()) {
        let why = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(i), items[i].clone(), why));
        return;
    }
    let key_of = |item: &Value| {
        let present = list.keys.iter().filter_map(|k| Some((k.to_string(), item.get(k.as_ref())?.clone())));
        Value::Object(present.collect::<Map<String, Value>>())
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    for i in repeated(keys.iter()) {
        errors.push(FieldError::duplicate(&path.index(i), keys[i].clone()));
    }
}

/// The positions at which a value appears for the second time.
fn repeated<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<usize> {
    let mut seen: FxHashMap<String, u32> = FxHashMap::default();
    let mut out = Vec::new();
    for (i, value) in values.enumerate() {
        let times = seen.entry(crate::gotext::json(value)).or_default();
        *times += 1;
        if *times == 2 {
            out.push(i);
        }
    }
    out
}
