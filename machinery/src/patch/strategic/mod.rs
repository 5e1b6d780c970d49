//! Strategic merge patch: merge patch that knows which lists merge, by which key, and a few directives.
//!
//! Directives: `$patch: replace|delete|merge` in maps and list elements, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`, `$retainKeys`. Which lists merge and by what key stands in the schema's merge
//! columns; they are not those of server-side apply.

mod lists;
mod order;

use serde_json::{Map, Value};

use super::PatchError;
use crate::gotext;
use crate::schema::{Merge, Schema, TypeId, Types};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Members = Map<String, Value>;
type Outcome<T> = Result<T, PatchError>;

/// The document with the patch merged in.
pub fn strategic(schema: &Schema, document: &Value, patch: &Value) -> Outcome<Value> {
    let Value::Object(changes) = patch else {
        return Err(malformed("invalid JSON document"));
    };
    let original = document.as_object().cloned().unwrap_or_default();
    let merger = Merger { types: &schema.types };
    merger.map(original, changes.clone(), Some(schema.root)).map(Value::Object)
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn unprocessable(text: impl Into<String>) -> PatchError {
    PatchError::Unprocessable(text.into())
}

fn internal(text: impl Into<String>) -> PatchError {
    PatchError::Internal(text.into())
}

/// The failure for a `$patch` directive that is none.
fn unknown_directive(directive: &Value, element: &Value) -> PatchError {
    internal(format!("unknown patch type: {} in map: {}", gotext::plain(directive), gotext::plain(element)))
}

struct Merger<'t> {
    types: &'t Types,
}

impl Merger<'_> {
    /// The type and merge columns of a member.
    fn field(&self, ty: Option<TypeId>, name: &str) -> (Option<TypeId>, Merge) {
        let Some(node) = ty.map(|id| self.types.get(id)) else { return (None, Merge::default()) };
        match node.as_struct().and_then(|s| s.field(name)) {
            Some(field) => (Some(field.ty), field.merge.clone()),
            None => (node.child(name), Merge::default()),
        }
    }

    fn map(&self, mut original: Members, mut patch: Members, ty: Option<TypeId>) -> Outcome<Members> {
        if let Some(directive) = patch.remove(PATCH) {
            match directive.as_str() {
                Some("replace") => return Ok(without_directives(patch)),
                Some("delete") => return Ok(Members::new()),
                Some("merge") => {}
                _ => {
                    patch.insert(PATCH.to_owned(), directive.clone());
                    return Err(unknown_directive(&directive, &Value::Object(patch)));
                }
            }
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, ty)?;
        for (key, change) in patch {
            if let Some(list) = key.strip_prefix(DELETE_LIST) {
                delete_from_list(&mut original, list, &change)?;
                continue;
            }
            self.member(&mut original, key, change, ty)?;
        }
        Ok(original)
    }

    fn member(&self, original: &mut Members, key: String, change: Value, ty: Option<TypeId>) -> Outcome<()> {
        if change.is_null() {
            original.remove(&key);
            return Ok(());
        }
        let (child, merge) = self.field(ty, &key);
        let merged = match (original.remove(&key), change) {
            (Some(Value::Object(current)), Value::Object(change)) => {
                if merge.replace {
                    Value::Object(change)
                } else {
                    Value::Object(self.map(current, change, child)?)
                }
            }
            (Some(Value::Array(current)), Value::Array(change)) => {
                Value::Array(self.list(current, change, child, &merge)?)
            }
            (_, change) => plain(change),
        };
        original.insert(key, merged);
        Ok(())
    }

    /// A list of the patch onto one of the document.
    fn list(
        &self,
        current: Vec<Value>,
        change: Vec<Value>,
        ty: Option<TypeId>,
        merge: &Merge,
    ) -> Outcome<Vec<Value>> {
        if merge.merge { lists::merge(self, current, change, ty, &merge.key) } else { Ok(change) }
    }

    /// Lists that come with `$setElementOrder`: merged, then put in that order. Both members leave the patch.
    fn ordered_lists(&self, original: &mut Members, patch: &mut Members, ty: Option<TypeId>) -> Outcome<()> {
        let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
        for directive in orders {
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(malformed("invalid patch format of setElementOrder list"));
            };
            let name = &directive[SET_ORDER.len()..];
            let (child, merge) = self.field(ty, name);
            let current = match original.get(name) {
                Some(Value::Array(items)) => Some(items.clone()),
                Some(Value::Null) | None => None,
                Some(_) => return Err(malformed("invalid patch format of setElementOrder list")),
            };
            let change = match patch.remove(name) {
                Some(Value::Array(items)) => Some(items),
                Some(Value::Null) => {
                    original.remove(name);
                    continue;
                }
                None => None,
                Some(_) => return Err(malformed("invalid patch format of setElementOrder list")),
            };
            if let Some(change) = &change {
                order::check(change, &order, &merge.key)?;
            }
            let server_order = current.clone().unwrap_or_default();
            let merged = match (current, change) {
                (Some(current), None) => current,
                (None, Some(change)) => {
                    change.into_iter().filter(|v| v.get(PATCH).is_none()).map(plain).collect()
                }
                (Some(current), Some(change)) => self.list(current, change, child, &merge)?,
                (None, None) => continue,
            };
            // Deletions stand beside the order and come first: the order does not name what they delete.
            let merged = match patch.remove(&format!("{DELETE_LIST}{name}")) {
                Some(Value::Array(gone)) => merged.into_iter().filter(|v| !gone.contains(v)).collect(),
                Some(_) => return Err(malformed("invalid patch format of primitive list")),
                None => merged,
            };
            let sorted = order::normalize(merged, &order, &server_order, &merge.key)?;
            original.insert(name.to_owned(), Value::Array(sorted));
        }
        Ok(())
    }
}

/// `$retainKeys`: what it does not list leaves the document; the patch must not set anything else.
fn retain_keys(original: &mut Members, patch: &mut Members) -> Outcome<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || malformed("invalid patch format of retainKeys");
    let Value::Array(keys) = directive else { return Err(bad()) };
    let listed = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    let set = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    if set.into_iter().any(|(name, _)| !listed(name)) {
        return Err(unprocessable("patch content doesn't match retainKeys list"));
    }
    original.retain(|name, _| listed(name));
    Ok(())
}

fn delete_from_list(original: &mut Members, name: &str, change: &Value) -> Outcome<()> {
    let Value::Array(gone) = change else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// A value of the patch that has nothing to merge with: directives and nulls go.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_directives(members)),
        Value::Array(items) => {
            let kept = items.into_iter().filter(|v| v.get(PATCH).is_none());
            Value::Array(kept.map(plain).collect())
        }
        other => other,
    }
}

fn without_directives(members: Members) -> Members {
    let directive = |name: &str| {
        name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_LIST) || name.starts_with(SET_ORDER)
    };
    members
        .into_iter()
        .filter(|(name, value)| !directive(name) && !value.is_null())
        .map(|(name, value)| (name, plain(value)))
        .collect()
}

#[cfg(test)]
mod tests;
