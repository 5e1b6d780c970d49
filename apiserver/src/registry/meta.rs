//! Reading and filling `metadata`: what the server owns in it, and the changes every create and update makes.
//!
//! Checks of what users may write are in [`super::meta_checks`]. Pure but for the random name suffix and the uid,
//! which the callers pass in.

use jiff::Timestamp;
use machinery::status::StatusError;
use serde_json::{Map, Value, json};

/// Suffix letters: no vowels and no look-alikes (upstream `util/rand`).
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// A generated name stays within one DNS label.
const GENERATED_NAME_LEN_MAX: usize = 63;

/// A text of the metadata, empty when it is not there.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// The metadata map, made when it is not there or is not a map.
pub fn map_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        _ => unreachable!("metadata was just made a map"),
    }
}

pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    map_mut(object).insert(field.to_owned(), value.into());
}

pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(field)
}

/// The finalizers in order.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Replaces the finalizers; an empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        remove(object, "finalizers");
    } else {
        set(object, "finalizers", finalizers);
    }
}

pub fn is_deleting(object: &Value) -> bool {
    object.get("metadata").and_then(|m| m.get("deletionTimestamp")).is_some_and(|t| !t.is_null())
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn grace_period_secs(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

pub fn generation(object: &Value) -> i64 {
    object.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// A name from `generateName` and five random letters.
pub fn generated_name(base: &str, random: &mut impl FnMut() -> usize) -> String {
    let keep = base.len().min(GENERATED_NAME_LEN_MAX - SUFFIX_LEN);
    let keep = (0..=keep).rev().find(|i| base.is_char_boundary(*i)).unwrap_or(0);
    let mut name = base[..keep].to_owned();
    for _ in 0..SUFFIX_LEN {
        name.push(char::from(SUFFIX_ALPHABET[random() % SUFFIX_ALPHABET.len()]));
    }
    name
}

/// What the server writes into every new object's metadata before admission sees it.
pub fn fill_new(object: &mut Value, uid: String, now: Timestamp) {
    let metadata = map_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), machinery::time::format_time(now).into());
}

/// Makes body and request agree on the namespace.
pub fn match_namespace(object: &mut Value, requested: &str) -> Result<(), StatusError> {
    let found = namespace(object);
    if found == requested {
        return Ok(());
    }
    if requested.is_empty() {
        remove(object, "namespace");
    } else if found.is_empty() {
        set(object, "namespace", requested);
    } else {
        return Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Metadata that an update cannot change and may leave out: taken from the old object where the new one says nothing.
pub fn carry_over(new: &mut Value, old: &Value) {
    let immutable = ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in immutable {
        let Some(value) = old["metadata"].get(field).cloned() else { continue };
        let metadata = map_mut(new);
        if metadata.get(field).is_none_or(|v| v.is_null() || *v == "") {
            metadata.insert(field.to_owned(), value);
        }
    }
    if let Some(generation) = old["metadata"].get("generation").cloned() {
        set(new, "generation", generation);
    } else {
        remove(new, "generation");
    }
    remove(new, "selfLink");
}

/// Whether anything but metadata (and status, unless it counts) differs.
pub fn differs_outside_metadata<'a>(new: &'a Value, old: &'a Value, status_counts: bool) -> bool {
    let skip = |k: &str| matches!(k, "metadata" | "apiVersion" | "kind") || (k == "status" && !status_counts);
    let part = |v: &'a Value| v.as_object().into_iter().flatten().filter(move |(k, _)| !skip(k));
    !part(new).eq(part(old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let mut zero = || 0;
        assert_eq!(generated_name("web-", &mut zero), "web-bbbbb");
        assert_eq!(generated_name(&"x".repeat(80), &mut zero).len(), 63);
    }

    #[test]
    fn namespaces_must_agree() {
        for (body, request, want) in
            [("", "a", Some("a")), ("a", "a", Some("a")), ("a", "b", None), ("a", "", Some(""))]
        {
            let mut object = json!({"metadata": {}});
            if !body.is_empty() {
                set(&mut object, "namespace", body);
            }
            let result = match_namespace(&mut object, request);
            assert_eq!(result.is_ok().then(|| namespace(&object)), want, "{body:?} {request:?}");
        }
    }

    #[test]
    fn generation_looks_outside_metadata_and_status() {
        let old = json!({"metadata":{"name":"a"},"spec":{"x":1},"status":{"y":1}});
        let mut new = old.clone();
        new["status"]["y"] = 2.into();
        new["metadata"]["labels"] = json!({});
        assert!(!differs_outside_metadata(&new, &old, false));
        assert!(differs_outside_metadata(&new, &old, true));
        new["spec"]["x"] = 2.into();
        assert!(differs_outside_metadata(&new, &old, false));
    }
}
