//! Path elements: field names, keys of list elements, values of sets, indices; their wire text and their print.

use serde_json::{Map, Value};

use super::node::Node;
use crate::gotext;
use crate::schema::{List, ListKind};

/// The element of a field.
pub(super) fn field(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push_str("f:");
    out.push_str(name);
    out
}

/// The element of a list's item: its keys, or itself in a set.
///
/// # Errors
/// Upstream's sentence when the item has no keys or cannot be in a set.
pub(super) fn item(list: &List, node: Node<'_>, value: &Value) -> Result<String, String> {
    match list.kind {
        ListKind::Map => keyed(list, node, value),
        _ => match value {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(format!("v:{scalar}")),
        },
    }
}

/// Missing keys count with their default, where there is one.
fn keyed(list: &List, node: Node<'_>, value: &Value) -> Result<String, String> {
    let members = match value {
        Value::Object(members) => members,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut keys: Vec<(&str, &Value)> = Vec::with_capacity(list.keys.len());
    for key in &list.keys {
        if let Some(value) = members.get(key.as_ref()).or_else(|| node.default_of(key)) {
            keys.push((key, value));
        }
    }
    if keys.is_empty() {
        let shown: Vec<String> = list.keys.iter().map(|k| gotext::quote(k)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            shown.join(" ")
        ));
    }
    keys.sort_by_key(|k| k.0);
    let mut out = String::from("k:{");
    for (i, (name, value)) in keys.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(name).to_string());
        out.push(':');
        out.push_str(&value.to_string());
    }
    out.push('}');
    Ok(out)
}

/// The canonical text of an element that came from outside.
pub(super) fn normalize(text: &str) -> Result<String, String> {
    match text.split_at_checked(2) {
        Some(("f:", _)) => Ok(text.to_owned()),
        Some(("v:", json)) => {
            let value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
            Ok(format!("v:{value}"))
        }
        Some(("k:", json)) => {
            let keys: Map<String, Value> = serde_json::from_str(json).map_err(|e| e.to_string())?;
            Ok(format!("k:{}", sorted_object(&keys)))
        }
        Some(("i:", index)) if index.parse::<i64>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("unknown path element type: {text}")),
    }
}

fn sorted_object(keys: &Map<String, Value>) -> String {
    let mut entries: Vec<_> = keys.iter().collect();
    entries.sort_by_key(|e| e.0);
    let entries: Vec<String> =
        entries.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
    format!("{{{}}}", entries.join(","))
}

/// How an element stands in a printed path.
pub(super) fn print(element: &str) -> String {
    let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap_or(Value::Null);
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", json)) => format!("[={}]", show(&parse(json))),
        Some(("k:", json)) => {
            let keys = parse(json);
            let mut keys: Vec<_> = keys.as_object().into_iter().flatten().collect();
            keys.sort_by_key(|k| k.0);
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={}", show(v))).collect();
            format!("[{}]", keys.join(","))
        }
        Some((_, index)) => format!("[{index}]"),
        None => String::new(),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => gotext::quote(text),
        other => other.to_string(),
    }
}
