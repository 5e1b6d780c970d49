//! The passes of server-side apply over values: extracting the set of fields, comparing, merging, removing.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::element;
use super::node::{Atom, Node};
use super::set::FieldSet;
use crate::schema::List;

/// The paths that a value sets, and whether it is set itself.
pub(super) fn field_set(node: Node<'_>, value: &Value) -> (bool, FieldSet) {
    let mut set = FieldSet::default();
    match (node.atom(Some(value)), value) {
        (Atom::Leaf, _) => return (true, set),
        (Atom::Map, Value::Object(members)) => {
            for (name, value) in members {
                let (child, known) = node.member(name);
                let (mut member, below) = field_set(child, value);
                member |= !known || value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.put(element::field(name), member, below);
            }
        }
        (Atom::List(list), Value::Array(items)) => {
            let elements: Vec<_> =
                items.iter().filter_map(|v| Some((element::item(list, node, v).ok()?, v))).collect();
            let mut seen: HashMap<&str, usize> = HashMap::new();
            for (element, _) in &elements {
                *seen.entry(element).or_default() += 1;
            }
            for (element, value) in &elements {
                // Elements that stand twice are owned as a whole.
                let alone = seen.get(element.as_str()) == Some(&1);
                let below = if alone { field_set(node.item(), value).1 } else { FieldSet::default() };
                set.put(element.clone(), true, below);
            }
        }
        _ => {}
    }
    (false, set)
}

/// What changed between two values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

/// Compares two values of one node.
pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> Comparison {
    let mut out = Comparison::default();
    compare_values(node, Some(old), Some(new), &mut out);
    out
}

impl Comparison {
    fn put(&mut self, element: String, change: Change, below: Comparison) {
        let parts = [
            (&mut self.added, Change::Added, below.added),
            (&mut self.modified, Change::Modified, below.modified),
            (&mut self.removed, Change::Removed, below.removed),
        ];
        for (set, kind, below) in parts {
            if change == kind || !below.is_empty() {
                set.put(element.clone(), change == kind, below);
            }
        }
    }

    /// The comparison without the fields that others reset.
    pub(super) fn without(self, reset: &FieldSet) -> Self {
        if reset.is_empty() {
            return self;
        }
        Comparison {
            added: self.added.recursive_difference(reset),
            modified: self.modified.recursive_difference(reset),
            removed: self.removed.recursive_difference(reset),
        }
    }
}

/// Fills `out` with the changes below and returns the change of the value itself.
fn compare_values(node: Node<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) -> Change {
    if old == new {
        return Change::None;
    }
    let (before, after) = (node.atom(old.or(new)), node.atom(new.or(old)));
    if std::mem::discriminant(&before) != std::mem::discriminant(&after) {
        // An untyped value that became another kind of value: both views count.
        let first = compare_as(before, node, old, new, out);
        let second = compare_as(after, node, old, new, out);
        return if second == Change::None { first } else { second };
    }
    compare_as(after, node, old, new, out)
}

fn compare_as(
    atom: Atom<'_>,
    node: Node<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) -> Change {
    let empty = |v: Option<&Value>| match (atom, v) {
        (Atom::Map, Some(Value::Object(members))) => members.is_empty(),
        (Atom::List(_), Some(Value::Array(items))) => items.is_empty(),
        _ => true,
    };
    if matches!(atom, Atom::Leaf) || (empty(old) && empty(new)) {
        return match (old, new) {
            (None, Some(_)) => Change::Added,
            (Some(_), None) => Change::Removed,
            (old, new) if old != new => Change::Modified,
            _ => Change::None,
        };
    }
    match atom {
        Atom::List(list) => compare_lists(list, node, array(old), array(new), out),
        _ => compare_maps(node, old.and_then(Value::as_object), new.and_then(Value::as_object), out),
    }
    match (old, new) {
        (None, Some(_)) => Change::Added,
        (Some(_), None) => Change::Removed,
        _ => Change::None,
    }
}

fn array(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn compare_maps(
    node: Node<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    out: &mut Comparison,
) {
    let empty = Map::new();
    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
    let added = new.keys().filter(|name| !old.contains_key(name.as_str()));
    for name in old.keys().chain(added) {
        let (before, after) = (old.get(name), new.get(name));
        if before == after {
            continue;
        }
        let mut below = Comparison::default();
        let change = compare_values(node.member(name).0, before, after, &mut below);
        out.put(element::field(name), change, below);
    }
}

fn compare_lists(list: &List, node: Node<'_>, old: &[Value], new: &[Value], out: &mut Comparison) {
    let group = |items: &[Value]| {
        let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            if let Ok(element) = element::item(list, node, item) {
                groups.entry(element).or_default().push(i);
            }
        }
        groups
    };
    let (before, after) = (group(old), group(new));
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for element in all {
        let lefts: Vec<&Value> = before.get(element).into_iter().flatten().map(|i| &old[*i]).collect();
        let rights: Vec<&Value> = after.get(element).into_iter().flatten().map(|i| &new[*i]).collect();
        let mut below = Comparison::default();
        let change = match (lefts.as_slice(), rights.as_slice()) {
            ([] | [_], [] | [_]) => {
                compare_values(node.item(), lefts.first().copied(), rights.first().copied(), &mut below)
            }
            (l, r) if l.len() >= 2 && r.len() >= 2 => {
                if l == r {
                    Change::None
                } else {
                    Change::Modified
                }
            }
            (l, r) if l.len() >= 2 => {
                compare_values(node.item(), None, r.first().copied(), &mut below);
                Change::Removed
            }
            (l, _) => {
                compare_values(node.item(), l.first().copied(), None, &mut below);
                Change::Added
            }
        };
        out.put(element.clone(), change, below);
    }
}

/// The live value with the applied one merged in.
///
/// # Errors
/// Elements of the applied value without keys or with keys that stand twice, with their path.
pub(super) fn merge(
    node: Node<'_>,
    live: Option<&Value>,
    applied: Option<&Value>,
) -> Result<Option<Value>, String> {
    let Some(new) = applied else { return Ok(live.cloned()) };
    let Some(old) = live else { return Ok(Some(new.clone())) };
    match (node.atom(Some(new)), old, new) {
        (Atom::Map, _, Value::Null | Value::Object(_)) => merge_maps(node, old, new),
        (Atom::List(list), _, Value::Null | Value::Array(_)) => merge_lists(list, node, old, new),
        _ => Ok(Some(new.clone())),
    }
}

fn merge_maps(node: Node<'_>, old: &Value, new: &Value) -> Result<Option<Value>, String> {
    let empty = Map::new();
    let (left, right) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    if left.is_empty() && right.is_empty() {
        return Ok(Some(new.clone()));
    }
    let mut out = left.clone();
    for (name, value) in right {
        let merged =
            merge(node.member(name).0, left.get(name), Some(value)).map_err(|e| format!(".{name}{e}"))?;
        match merged {
            Some(merged) => out.insert(name.clone(), merged),
            None => out.remove(name),
        };
    }
    Ok(if out.is_empty() { None } else { Some(Value::Object(out)) })
}

/// Applied elements keep their order; live ones that are not applied keep theirs and their place between.
fn merge_lists(list: &List, node: Node<'_>, old: &Value, new: &Value) -> Result<Option<Value>, String> {
    let (left, right) = (array(Some(old)), array(Some(new)));
    if left.is_empty() && right.is_empty() {
        return Ok(Some(new.clone()));
    }
    let index = |items: &[Value]| -> Result<Vec<String>, String> {
        let named = items.iter().enumerate();
        named.map(|(i, v)| element::item(list, node, v).map_err(|e| format!(": element {i}: {e}"))).collect()
    };
    let (left_elements, right_elements) = (index(left)?, index(right)?);
    let mut position: HashMap<&str, usize> = HashMap::new();
    for (i, element) in right_elements.iter().enumerate() {
        if position.insert(element, i).is_some() {
            return Err(format!(": duplicate entries for key {}", element::print(element)));
        }
    }
    let mut live: HashMap<&str, &Value> = HashMap::new();
    for (element, value) in left_elements.iter().zip(left) {
        // A live element that stands twice has no single value to merge with.
        live.entry(element).and_modify(|v| *v = &Value::Null).or_insert(value);
    }
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let order = interleave(&left_elements, &right_elements, &position, &live);
    for step in order {
        match step {
            Step::Live(i) => out.push(left[i].clone()),
            Step::Applied(i) => {
                let element = &right_elements[i];
                let before = live.get(element.as_str()).copied().filter(|v| !v.is_null());
                let merged = merge(node.item(), before, Some(&right[i]))
                    .map_err(|e| format!("{}{e}", element::print(element)))?;
                out.extend(merged);
            }
        }
    }
    Ok(if out.is_empty() { None } else { Some(Value::Array(out)) })
}

enum Step {
    Live(usize),
    Applied(usize),
}

/// The order of a merged list (upstream's algorithm: shared elements anchor the two sequences).
fn interleave(
    left: &[String],
    right: &[String],
    in_right: &HashMap<&str, usize>,
    in_left: &HashMap<&str, &Value>,
) -> Vec<Step> {
    let mut shared = right.iter().filter(|e| in_left.contains_key(e.as_str()));
    let mut next_shared = shared.next();
    let mut merged: BTreeSet<&str> = BTreeSet::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l] == right[r] {
                merged.insert(&left[l]);
                out.push(Step::Applied(r));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if in_right.contains_key(left[l].as_str()) && next_shared.is_some_and(|next| *next != left[l]) {
                // It was moved: the applied order says where it goes.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if !in_right.contains_key(left[l].as_str()) {
                out.push(Step::Live(l));
                l += 1;
                continue;
            }
            if merged.contains(left[l].as_str()) {
                l += 1;
            }
        }
        if r < right.len() {
            merged.insert(&right[r]);
            out.push(Step::Applied(r));
            if next_shared == Some(&right[r]) {
                next_shared = shared.next();
            }
            r += 1;
        }
    }
    out
}

/// The value without the paths of the set.
pub(super) fn remove(node: Node<'_>, value: &Value, set: &FieldSet) -> Value {
    match (node.atom(Some(value)), value) {
        (Atom::Map, Value::Object(members)) => {
            let mut out = Map::new();
            for (name, value) in members {
                let element = element::field(name);
                if set.has(&element) {
                    continue;
                }
                let kept = match set.below(&element) {
                    Some(below) => remove(node.member(name).0, value, below),
                    None => value.clone(),
                };
                out.insert(name.clone(), kept);
            }
            Value::Object(out)
        }
        (Atom::List(list), Value::Array(items)) => {
            let kept = items.iter().filter_map(|value| {
                let Ok(element) = element::item(list, node, value) else { return Some(value.clone()) };
                if set.has(&element) {
                    return None;
                }
                Some(
                    set.below(&element)
                        .map_or_else(|| value.clone(), |below| remove(node.item(), value, below)),
                )
            });
            Value::Array(kept.collect())
        }
        // Nothing can be removed from inside a leaf.
        _ => value.clone(),
    }
}

/// The set with every named field that has paths below it as a member too.
pub(super) fn with_named_fields(node: Node<'_>, set: &FieldSet) -> FieldSet {
    let mut out = set.clone();
    for (element, below) in set.children() {
        let (child, known) = match element.split_at_checked(2) {
            Some(("f:", name)) => node.member(name),
            Some(("k:", _)) => (node.item(), false),
            _ => (Node::Untyped, false),
        };
        out.put(element.clone(), known, with_named_fields(child, below));
    }
    out
}

/// What the schema does not allow in an applied configuration; each with its path.
pub(super) fn problems(node: Node<'_>, value: &Value, path: &mut String, out: &mut Vec<String>) {
    match (node.atom(Some(value)), value) {
        (Atom::Map, Value::Object(members)) => {
            for (name, value) in members {
                let len = path.len();
                path.push('.');
                path.push_str(name);
                if node.allows(name) {
                    problems(node.member(name).0, value, path, out);
                } else {
                    out.push(format!("{path}: field not declared in schema"));
                }
                path.truncate(len);
            }
        }
        (Atom::List(list), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (i, value) in items.iter().enumerate() {
                match element::item(list, node, value) {
                    Err(error) => out.push(format!("{path}: element {i}: {error}")),
                    Ok(element) => {
                        let len = path.len();
                        if !seen.insert(element.clone()) {
                            out.push(format!(
                                "{path}: duplicate entries for key {}",
                                element::print(&element)
                            ));
                        }
                        path.push_str(&element::print(&element));
                        problems(node.item(), value, path, out);
                        path.truncate(len);
                    }
                }
            }
        }
        (Atom::Map, Value::Null) | (Atom::List(_), Value::Null) | (Atom::Leaf, _) => {}
        (Atom::Map, other) => out.push(format!("{path}: expected map, got &{{{}}}", shown(other))),
        (Atom::List(_), other) => out.push(format!("{path}: expected list, got &{{{}}}", shown(other))),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
