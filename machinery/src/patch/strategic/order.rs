//! The order of merged lists: the patch's order for what it names, the server's order for the rest, interleaved.

use serde_json::Value;

use super::lists::key_of;
use super::{Outcome, PATCH, SET_ORDER, internal};
use crate::gotext;

/// What identifies an element: its merge key, or itself.
fn identity<'a>(element: &'a Value, key: &str) -> Outcome<&'a Value> {
    if key.is_empty() || !element.is_object() { Ok(element) } else { key_of(element, key) }
}

fn position(list: &[Value], element: &Value, key: &str) -> Option<usize> {
    let wanted = identity(element, key).ok()?;
    list.iter().position(|item| identity(item, key).is_ok_and(|i| i == wanted))
}

/// The patch's elements must stand in the order list, in the same sequence.
pub(super) fn check(change: &[Value], order: &[Value], key: &str) -> Outcome<()> {
    let mut rest = order.iter();
    for element in change.iter().filter(|e| e.get(PATCH).is_none()) {
        let wanted = identity(element, key)?;
        if !rest.by_ref().any(|o| identity(o, key).is_ok_and(|i| i == wanted)) {
            let (change, order) = (gotext::plain(&change.into()), gotext::plain(&order.into()));
            return Err(internal(format!(
                "The order in patch list:\n{change}\n doesn't match {SET_ORDER} list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// Sorts merged elements: those that `order` names by it, the others by `server_order`, each group keeping its
/// sequence; an element of the server goes before the first of the patch's that it preceded.
pub(super) fn normalize(
    merged: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: &str,
) -> Outcome<Vec<Value>> {
    let (mut patched, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(order, item, key).is_some());
    patched.sort_by_key(|item| position(order, item, key));
    others.sort_by_key(|item| position(server_order, item, key).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(patched.len() + others.len());
    let mut left = others.into_iter().peekable();
    for right in patched {
        let at = position(server_order, &right, key);
        while let Some(item) = left.peek() {
            match (position(server_order, item, key), at) {
                (Some(l), Some(r)) if l < r => out.extend(left.next()),
                _ => break,
            }
        }
        out.push(right);
    }
    out.extend(left);
    Ok(out)
}
