//! Reading and writing the parts of an API object that every kind has, on its JSON form.
//!
//! Readers never fail: what is missing or has the wrong type reads as empty.

use serde_json::{Map, Value};

/// The value at the path of member names.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(*name))
}

/// The text at the path, empty when there is none.
pub fn text_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at the path.
pub fn int_at(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The boolean at the path, false when there is none.
pub fn bool_at(object: &Value, path: &[&str]) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at the path, empty when there is none.
pub fn list_at<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub fn api_version(object: &Value) -> &str {
    text_at(object, &["apiVersion"])
}

pub fn kind(object: &Value) -> &str {
    text_at(object, &["kind"])
}

pub fn name(object: &Value) -> &str {
    text_at(object, &["metadata", "name"])
}

pub fn namespace(object: &Value) -> &str {
    text_at(object, &["metadata", "namespace"])
}

pub fn generate_name(object: &Value) -> &str {
    text_at(object, &["metadata", "generateName"])
}

pub fn uid(object: &Value) -> &str {
    text_at(object, &["metadata", "uid"])
}

pub fn resource_version(object: &Value) -> &str {
    text_at(object, &["metadata", "resourceVersion"])
}

/// Zero when unset.
pub fn generation(object: &Value) -> i64 {
    int_at(object, &["metadata", "generation"]).unwrap_or(0)
}

/// The labels as a JSON value, null when there are none.
pub fn labels(object: &Value) -> &Value {
    at(object, &["metadata", "labels"]).unwrap_or(&Value::Null)
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, &["metadata", "labels", key]).and_then(Value::as_str)
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, &["metadata", "annotations", key]).and_then(Value::as_str)
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list_at(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

pub fn owner_references(object: &Value) -> &[Value] {
    list_at(object, &["metadata", "ownerReferences"])
}

/// The owner that controls the object.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| bool_at(o, &["controller"]))
}

/// Whether deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|t| !t.is_null())
}

/// The members of `metadata`, made when missing. A root or metadata that is no object is replaced by one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(member_mut(object, "metadata"))
}

/// The member of an object, null when it was missing; a value that is no object is replaced by an empty one.
pub fn member_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    let members = object_mut(object);
    if !members.contains_key(name) {
        members.insert(name.to_owned(), Value::Null);
    }
    &mut members[name]
}

/// The members of a value, which becomes an empty object unless it is one.
pub fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        // Replaced by an object just above.
        _ => unreachable!("value was made an object"),
    }
}

/// Sets the value at the path, making the objects on the way.
pub fn set(object: &mut Value, path: &[&str], value: Value) {
    let slot = path.iter().fold(object, |at, name| member_mut(at, name));
    *slot = value;
}

/// Removes and returns the value at the path.
pub fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(object, |at, name| at.get_mut(*name))?;
    parent.as_object_mut()?.remove(*last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readers_and_writers() {
        let mut o = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f"]}, "spec": 3});
        assert_eq!(
            (name(&o), label(&o, "x"), finalizers(&o).count(), namespace(&o)),
            ("a", Some("y"), 1, "")
        );
        set(&mut o, &["spec", "replicas"], json!(2));
        set(&mut o, &["status", "a", "b"], json!(1));
        assert_eq!(remove(&mut o, &["status", "a", "b"]), Some(json!(1)));
        assert_eq!(o["spec"], json!({"replicas": 2}));
        metadata_mut(&mut o).insert("deletionTimestamp".into(), json!("t"));
        assert!(is_deleting(&o));
        assert_eq!(remove(&mut o, &["nope", "x"]), None);
    }
}
