//! JSON patch (RFC 6902) with the leniencies of the library upstream uses: negative indices count from the end.

use serde_json::Value;

use super::PatchError;
use crate::json::{DEPTH_MAX, too_deep};

/// Most operations one patch may have (upstream's limit).
pub const OPERATIONS_MAX: usize = 10_000;
/// Most bytes that copy operations may add, so that a short patch cannot grow an object without bound (upstream: the
/// request size limit).
const COPY_BYTES_MAX: usize = 3 << 20;

/// The document after all operations, in order.
pub fn json_patch(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        let text = "json: cannot unmarshal object into Go value of type jsonpatch.Patch";
        return Err(PatchError::Malformed(text.to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        let text = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        );
        return Err(PatchError::TooLarge(text));
    }
    let mut out = document.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        if !operation.is_object() {
            let text = "json: cannot unmarshal value into Go value of type jsonpatch.Operation";
            return Err(PatchError::Malformed(text.to_owned()));
        }
        apply(&mut out, operation, &mut copied_bytes).map_err(|refusal| match refusal {
            Refusal::Misfit(text) => PatchError::Unprocessable(text),
            Refusal::Depth(text) => PatchError::TooDeep(text),
        })?;
    }
    Ok(out)
}

/// Why one operation is not made.
enum Refusal {
    Misfit(String),
    Depth(String),
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Misfit(text)
    }
}

/// The value, where the document still nests no deeper than can be read with it at the path. Checked with every
/// operation: a short patch could nest without bound, by copying what it has nested.
fn shallow(path: &str, value: Value) -> Result<Value, Refusal> {
    let levels = DEPTH_MAX.saturating_sub(path.matches('/').count());
    match too_deep(&value, levels) {
        Some(text) => Err(Refusal::Depth(format!("couldn't get version/kind; json parse error: {text}"))),
        None => Ok(value),
    }
}

fn apply(document: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), Refusal> {
    let kind = operation.get("op").and_then(Value::as_str).unwrap_or("unknown");
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = text("path");
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let from = || {
        text("from").ok_or_else(|| {
            format!("{kind} operation failed to decode from: operation, missing from field: missing value")
        })
    };
    let path = || path.ok_or_else(|| format!("{kind} operation failed to decode path: missing value"));
    match kind {
        "add" => add(document, path()?, shallow(path()?, value())?, "add")?,
        "remove" => drop(remove(document, path()?)?),
        "replace" => replace(document, path()?, shallow(path()?, value())?)?,
        "move" => {
            let from = from()?;
            get(document, from, "move")?;
            let moved = remove(document, from)?;
            add(document, path()?, shallow(path()?, moved)?, "move")?;
        }
        "copy" => {
            let copied = get(document, from()?, "copy")?.clone();
            *copied_bytes += copied.to_string().len();
            if *copied_bytes > COPY_BYTES_MAX {
                let text = format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPY_BYTES_MAX}"
                );
                return Err(text.into());
            }
            add(document, path()?, shallow(path()?, copied)?, "copy")?;
        }
        "test" => test(document, path()?, &value())?,
        other => return Err(format!("Unexpected kind: {other}").into()),
    }
    Ok(())
}

fn decode(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The parent of the path's last token, and the token.
fn parent<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (front, last) = path.rsplit_once('/')?;
    let mut at = document;
    for token in front.split('/').skip(1) {
        at = match at {
            Value::Object(members) => members.get_mut(&decode(token))?,
            Value::Array(items) => {
                let index = index_of(token, items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    if at.is_object() || at.is_array() { Some((at, decode(last))) } else { None }
}

/// An existing position; negative ones count from the end.
fn index_of(token: &str, len: usize) -> Result<usize, String> {
    let index: i64 = token
        .parse()
        .map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", crate::gotext::quote(token)))?;
    let invalid = || format!("Unable to access invalid index: {index}: invalid index referenced");
    let at = if index < 0 { index + i64::try_from(len).unwrap_or(i64::MAX) } else { index };
    usize::try_from(at).ok().filter(|i| *i < len).ok_or_else(invalid)
}

fn missing(kind: &str, path: &str) -> String {
    format!("{kind} operation does not apply: doc is missing path: \"{path}\": missing value")
}

fn add(document: &mut Value, path: &str, value: Value, kind: &str) -> Result<(), String> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, key) = parent(document, path).ok_or_else(|| missing(kind, path))?;
    match parent {
        Value::Object(members) => {
            members.insert(key, value);
        }
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            // One past the end is a position here.
            let index = index_of(&key, items.len() + 1)
                .map_err(|e| format!("error in {kind} for path: '{path}': {e}"))?;
            items.insert(index, value);
        }
        _ => return Err(missing(kind, path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, key) = parent(document, path).ok_or_else(|| missing("remove", path))?;
    let context = |e: String| format!("error in remove for path: '{path}': {e}");
    match parent {
        Value::Object(members) => members
            .remove(&key)
            .ok_or_else(|| context(format!("Unable to remove nonexistent key: {key}: missing value"))),
        Value::Array(items) => {
            let index = index_of(&key, items.len()).map_err(context)?;
            Ok(items.remove(index))
        }
        _ => Err(missing("remove", path)),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".to_owned());
        }
        *document = value;
        return Ok(());
    }
    let missing_key =
        || format!("replace operation does not apply: doc is missing key: {path}: missing value");
    let (parent, key) = parent(document, path).ok_or_else(|| {
        format!("replace operation does not apply: doc is missing path: {path}: missing value")
    })?;
    let slot = match parent {
        Value::Object(members) => members.get_mut(&key).ok_or_else(missing_key)?,
        Value::Array(items) => {
            let index = index_of(&key, items.len()).map_err(|_| missing_key())?;
            &mut items[index]
        }
        _ => return Err(missing_key()),
    };
    *slot = value;
    Ok(())
}

/// The value at the path, for operations that read.
fn get<'a>(document: &'a mut Value, path: &str, kind: &str) -> Result<&'a Value, String> {
    if path.is_empty() {
        return Ok(document);
    }
    let absent = format!("{kind} operation does not apply: doc is missing from path: {path}: missing value");
    let (parent, key) = parent(document, path).ok_or_else(|| absent.clone())?;
    match parent {
        Value::Object(members) => members.get(&key).ok_or(absent),
        Value::Array(items) => {
            let index =
                index_of(&key, items.len()).map_err(|e| format!("error in {kind} for path: '{key}': {e}"))?;
            Ok(&items[index])
        }
        _ => Err(absent),
    }
}

fn test(document: &mut Value, path: &str, expected: &Value) -> Result<(), String> {
    let failed = || format!("testing value {path} failed: test failed");
    let found = match get(document, path, "test") {
        Ok(found) => found,
        // A missing member equals null, as in the library.
        Err(_) if expected.is_null() => return Ok(()),
        Err(_) => return Err(failed()),
    };
    if found == expected { Ok(()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn operations() {
        for (document, patch, result) in [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/1", "value": 3}]),
                json!({"a": [1, 3, 2]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1]})),
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), json!({})),
            (json!({"a/b": 1}), json!([{"op": "replace", "path": "/a~1b", "value": 2}]), json!({"a/b": 2})),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
            (
                json!({"a": {"x": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": {"x": 1}, "b": {"x": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {}}]), json!({})),
        ] {
            assert_eq!(json_patch(&document, &patch), Ok(result), "{patch}");
        }
    }

    #[test]
    fn failures() {
        for (patch, text) in [
            (
                json!([{"op": "remove", "path": "/b"}]),
                "error in remove for path: '/b': Unable to remove nonexistent key: b: missing value",
            ),
            (
                json!([{"op": "replace", "path": "/b", "value": 1}]),
                "replace operation does not apply: doc is missing key: /b: missing value",
            ),
            (
                json!([{"op": "add", "path": "/b/c", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/b/c\": missing value",
            ),
            (json!([{"op": "test", "path": "/a", "value": 2}]), "testing value /a failed: test failed"),
            (json!([{"op": "jump", "path": "/a"}]), "Unexpected kind: jump"),
            (
                json!([{"op": "add", "path": "/l/5", "value": 1}]),
                "error in add for path: '/l/5': Unable to access invalid index: 5: invalid index referenced",
            ),
        ] {
            let error = json_patch(&json!({"a": 1, "l": []}), &patch);
            assert_eq!(error, Err(PatchError::Unprocessable(text.to_owned())));
        }
        assert!(matches!(json_patch(&json!({}), &json!({})), Err(PatchError::Malformed(_))));
        let many = Value::Array(vec![json!({"op": "test", "path": ""}); OPERATIONS_MAX + 1]);
        assert!(matches!(json_patch(&json!({}), &many), Err(PatchError::TooLarge(_))));
    }

    #[test]
    fn nesting_is_bounded_operation_by_operation() {
        let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        let path = |tokens: usize| "/a".repeat(tokens);
        let check = |patch: Value, fits: bool| {
            let result = json_patch(&nested(100), &patch);
            match result {
                Ok(value) => assert!(fits && too_deep(&value, DEPTH_MAX).is_none(), "{patch}"),
                Err(PatchError::TooDeep(text)) => {
                    assert!(!fits && text.ends_with("invalid character '{' exceeded max depth"), "{text}");
                }
                Err(other) => panic!("{other}"),
            }
        };
        for (levels, fits) in [(DEPTH_MAX - 100, true), (DEPTH_MAX - 99, false)] {
            check(json!([{"op": "add", "path": path(100), "value": nested(levels)}]), fits);
            check(json!([{"op": "replace", "path": path(99), "value": nested(levels + 1)}]), fits);
            let moved = json!([
                {"op": "add", "path": "/b", "value": nested(levels)},
                {"op": "move", "from": "/b", "path": path(100)},
            ]);
            check(moved, fits);
        }
        // Each copy puts the whole into itself.
        let copies = (0..10).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")}));
        check(copies.collect(), true);
        check(json!([{"op": "copy", "from": "", "path": path(100)}]), false);
    }

    proptest! {
        #[test]
        fn never_panics(op in "add|remove|replace|move|copy|test", path in "(/(a|b|-|0|-1|7|~1)){0,4}", from in "(/(a|b|0)){0,3}") {
            let patch = json!([{"op": op, "path": path, "from": from, "value": [1]}]);
            let _ = json_patch(&json!({"a": [1, {"b": [2]}], "b": {"a": 3}}), &patch);
        }
    }
}
