//! Reading and changing API objects in their JSON form.
//!
//! Missing, `null` and of-the-wrong-type all read as absent: types were checked by the schema before, and a hook
//! must never panic on what a client sent.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at the path of field names, `Null` when any part is missing.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| value.get(*name).unwrap_or(&NULL))
}

/// The string at the path, empty when absent.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at the path.
pub fn int(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).as_i64()
}

/// The boolean at the path.
pub fn flag(value: &Value, path: &[&str]) -> Option<bool> {
    at(value, path).as_bool()
}

/// The items of the list at the path, none when absent.
pub fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The strings of the list at the path.
pub fn texts<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> + use<'a> {
    items(value, path).iter().filter_map(Value::as_str)
}

/// The entries of the map at the path, none when absent.
pub fn entries<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    at(value, path).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// Whether Go would leave the value out: null, "", 0, false, [] or {}.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Whether the value at the path is there and not zero.
pub fn has(value: &Value, path: &[&str]) -> bool {
    !is_zero(at(value, path))
}

/// Whether a pointer field at the path is set; an empty object or a zero counts as set.
pub fn is_set(value: &Value, path: &[&str]) -> bool {
    !at(value, path).is_null()
}

/// The mutable value at the path; missing objects on the way are made.
pub fn make<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(value, |value, name| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(fields) => fields.entry(*name).or_insert(Value::Null),
            other => other,
        }
    })
}

/// Sets the value at the path; missing objects on the way are made.
pub fn set(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    *make(value, path) = new.into();
}

/// Sets the value at the path when it is absent or zero.
pub fn set_if_zero(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if is_zero(at(value, path)) {
        set(value, path, new);
    }
}

/// Sets the value at the path when it is absent.
pub fn set_if_null(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    if at(value, path).is_null() {
        set(value, path, new);
    }
}

/// The mutable value at the path, where it exists.
pub fn find_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, name| value.get_mut(*name))
}

/// The mutable items of the list at the path, none when absent.
pub fn items_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    find_mut(value, path).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Takes the field at the path out.
pub fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    find_mut(value, parents)?.as_object_mut()?.remove(*last)
}

/// Makes the field at the path what it is in `old`: the same value, or absent.
pub fn keep(new: &mut Value, old: &Value, path: &[&str]) {
    match at(old, path) {
        Value::Null => drop(remove(new, path)),
        value => set(new, path, value.clone()),
    }
}

/// Appends to the list at the path, which is made when missing.
pub fn push(value: &mut Value, path: &[&str], item: Value) {
    let list = make(value, path);
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

/// Deep equality as Go's semantic comparison has it: absent, null and empty are the same.
pub fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let covers = |x: &Map<String, Value>, y: &Map<String, Value>| {
                x.iter().all(|(key, value)| same(value, y.get(key).unwrap_or(&NULL)))
            };
            covers(a, b) && covers(b, a)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Null, other) | (other, Value::Null) => is_empty(other),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => left == right,
    }
}

/// Null, "", [] or {} (all the way down for objects): what a nil and an empty Go value have in common.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let mut object = json!({"spec": {"ports": [{"port": 1}], "type": ""}});
        assert_eq!(int(&items(&object, &["spec", "ports"])[0], &["port"]), Some(1));
        assert_eq!(text(&object, &["spec", "missing", "deeper"]), "");
        set_if_zero(&mut object, &["spec", "type"], "ClusterIP");
        set(&mut object, &["status", "phase"], "Active");
        push(&mut object, &["spec", "list"], json!(1));
        assert_eq!(
            object,
            json!({"spec": {"ports": [{"port": 1}], "type": "ClusterIP", "list": [1]}, "status": {"phase": "Active"}})
        );
        assert_eq!(remove(&mut object, &["spec", "type"]), Some(json!("ClusterIP")));
        assert_eq!(remove(&mut object, &["spec", "type"]), None);
    }

    #[test]
    fn sameness_ignores_empty() {
        let check = |left: Value, right: Value, expected: bool| {
            assert_eq!(same(&left, &right), expected, "{left} {right}")
        };
        check(json!({"a": {}}), json!({}), true);
        check(json!({"a": [], "b": 1}), json!({"b": 1.0, "c": null}), true);
        check(json!({"a": 0}), json!({}), false);
        check(json!([1]), json!([1, 2]), false);
        check(json!({"a": "x"}), json!({"a": "y"}), false);
    }
}
