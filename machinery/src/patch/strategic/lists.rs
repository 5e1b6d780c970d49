//! Merging two lists: scalars by union, objects by their merge key.

use serde_json::Value;

use super::{Merger, Outcome, PATCH, internal, order, plain, unknown_directive, unprocessable};
use crate::gotext;
use crate::schema::{Shape, TypeId};

/// Merges `change` into `current`; elements of the patch keep the patch's order.
pub(super) fn merge(
    merger: &Merger<'_>,
    current: Vec<Value>,
    change: Vec<Value>,
    ty: Option<TypeId>,
    key: &str,
) -> Outcome<Vec<Value>> {
    let mut elements = current.iter().chain(&change);
    let Some(first) = elements.next() else { return Ok(current) };
    if current.iter().chain(&change).any(Value::is_array) {
        return Err(unprocessable("lists of lists are not supported"));
    }
    if elements.any(|e| e.is_object() != first.is_object()) {
        return Err(internal("list element types are not identical"));
    }
    let server_order = current.clone();
    if !first.is_object() {
        let mut merged = current;
        for item in &change {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return order::normalize(merged, &change, &server_order, "");
    }
    if key.is_empty() {
        return Err(internal("cannot merge lists without merge key"));
    }
    let item_type = ty.and_then(|id| match &merger.types.get(id).shape {
        Shape::List(list) => Some(list.item),
        _ => None,
    });
    let (mut merged, change) = special_elements(current, change, key)?;
    for element in &change {
        let wanted = key_of(element, key)?;
        let found = find(&merged, key, wanted)?;
        match found {
            Some(i) => {
                let (Value::Object(old), Value::Object(new)) = (merged[i].take(), element.clone()) else {
                    continue;
                };
                merged[i] = Value::Object(merger.map(old, new, item_type)?);
            }
            None => merged.push(plain(element.clone())),
        }
    }
    order::normalize(merged, &change, &server_order, key)
}

/// Elements with a `$patch` directive: deletes are done at once; a replace drops the document's list.
fn special_elements(
    mut current: Vec<Value>,
    change: Vec<Value>,
    key: &str,
) -> Outcome<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(change.len());
    let mut replace = false;
    for element in change {
        match element.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
            None => rest.push(element),
            Some("delete") => {
                let wanted = key_of(&element, key)?;
                current.retain(|item| item.get(key) != Some(wanted));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(internal("merging lists cannot yet be specified in the patch"));
            }
            Some(_) => return Err(unknown_directive(&element[PATCH], &element)),
        }
    }
    if replace { Ok((rest.into_iter().map(plain).collect(), Vec::new())) } else { Ok((current, rest)) }
}

pub(super) fn key_of<'a>(element: &'a Value, key: &str) -> Outcome<&'a Value> {
    element.get(key).ok_or_else(|| {
        let shown = gotext::plain(element);
        internal(format!("map: {shown} does not contain declared merge key: {key}"))
    })
}

fn find(list: &[Value], key: &str, wanted: &Value) -> Outcome<Option<usize>> {
    for (i, item) in list.iter().enumerate() {
        if key_of(item, key)? == wanted {
            return Ok(Some(i));
        }
    }
    Ok(None)
}
