//! Merge patch (RFC 7386).

use serde_json::{Map, Value};

/// The document with the patch merged in: nulls delete, objects merge, all else replaces.
pub fn merge_patch(document: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut out = match document {
        Value::Object(members) => members.clone(),
        _ => Map::new(),
    };
    merge_into(&mut out, changes);
    Value::Object(out)
}

fn merge_into(members: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (name, change) in changes {
        match (change, members.get_mut(name)) {
            (Value::Null, _) => {
                members.remove(name);
            }
            (Value::Object(inner), Some(Value::Object(current))) => merge_into(current, inner),
            (change, _) => {
                members.insert(name.clone(), merge_patch(&Value::Null, change));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7386's appendix.
    #[test]
    fn rfc_examples() {
        for (document, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge_patch(&document, &patch), result);
        }
    }
}
