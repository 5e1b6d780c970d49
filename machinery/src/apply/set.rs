//! Sets of field paths, as trees: what `FieldsV1` says and what managers own.
//!
//! A path element is kept in its wire text (`f:spec`, `k:{"name":"a"}`, `v:"x"`, `i:3`), keys sorted and without
//! spaces, so that equal elements are equal texts. Invariant: no child set is empty.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element;

/// A set of paths. `members` are paths of length one, `children` hold the longer ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    members: BTreeSet<String>,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// A set of field paths given by names (`&["spec", "replicas"]`).
    pub fn from_names(paths: &[&[&str]]) -> Self {
        let mut set = FieldSet::default();
        for path in paths {
            set.insert_names(path);
        }
        set
    }

    fn insert_names(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(element::field(last));
            }
            [first, rest @ ..] => self.children.entry(element::field(first)).or_default().insert_names(rest),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Whether the path of this one element is in the set.
    pub fn has(&self, element: &str) -> bool {
        self.members.contains(element)
    }

    /// The paths below an element, without it.
    pub fn below(&self, element: &str) -> Option<&FieldSet> {
        self.children.get(element)
    }

    /// The elements with paths below them.
    pub(super) fn children(&self) -> impl Iterator<Item = (&String, &FieldSet)> {
        self.children.iter()
    }

    /// Adds what is known about one element: whether itself is in the set, and the paths below it.
    pub(super) fn put(&mut self, element: String, member: bool, below: FieldSet) {
        if below.is_empty() {
            if member {
                self.members.insert(element);
            }
            return;
        }
        if member {
            self.members.insert(element.clone());
        }
        match self.children.entry(element) {
            Entry::Occupied(mut child) => child.get_mut().extend(below),
            Entry::Vacant(place) => {
                place.insert(below);
            }
        }
    }

    /// Removes the paths of the other set; costs what the smaller of the two costs.
    pub(super) fn remove_all(&mut self, other: &FieldSet) {
        for element in &other.members {
            self.members.remove(element);
        }
        for (element, minus) in &other.children {
            if let Some(child) = self.children.get_mut(element) {
                child.remove_all(minus);
                if child.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }

    /// Adds all paths of the other set.
    pub fn extend(&mut self, other: FieldSet) {
        self.members.extend(other.members);
        for (element, below) in other.children {
            self.children.entry(element).or_default().extend(below);
        }
    }

    /// The paths in either set.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.extend(other.clone());
        out
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let members = self.members.intersection(&other.members).cloned().collect();
        let children = self.children.iter().filter_map(|(element, below)| {
            let both = below.intersection(other.children.get(element)?);
            if both.is_empty() { None } else { Some((element.clone(), both)) }
        });
        FieldSet { members, children: children.collect() }
    }

    /// The paths that are not in the other set.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.subtract(other, false)
    }

    /// As [`FieldSet::difference`]; a member of the other set takes everything below it too.
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        self.subtract(other, true)
    }

    fn subtract(&self, other: &FieldSet, recursive: bool) -> FieldSet {
        let members = self.members.difference(&other.members).cloned().collect();
        let children = self.children.iter().filter_map(|(element, below)| {
            if recursive && other.members.contains(element) {
                return None;
            }
            let left = match other.children.get(element) {
                Some(minus) => below.subtract(minus, recursive),
                None => below.clone(),
            };
            if left.is_empty() { None } else { Some((element.clone(), left)) }
        });
        FieldSet { members, children: children.collect() }
    }

    /// Every path as errors print it (`.spec.containers[name="a"].image`).
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut String, out: &mut Vec<String>) {
        let all: BTreeSet<&String> = self.members.iter().chain(self.children.keys()).collect();
        for element in all {
            let len = prefix.len();
            prefix.push_str(&element::print(element));
            if self.members.contains(element) {
                out.push(prefix.clone());
            }
            if let Some(below) = self.children.get(element) {
                below.collect(prefix, out);
            }
            prefix.truncate(len);
        }
    }

    /// The set as a `FieldsV1` value.
    pub fn to_fields_v1(&self) -> Value {
        let mut out = Map::new();
        for element in &self.members {
            out.insert(element.clone(), Value::Object(Map::new()));
        }
        for (element, below) in &self.children {
            let mut inner = below.to_fields_v1();
            if let (true, Value::Object(entries)) = (self.members.contains(element), &mut inner) {
                entries.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(element.clone(), inner);
        }
        Value::Object(out)
    }

    /// Reads a `FieldsV1` value.
    ///
    /// # Errors
    /// What is wrong with the first bad element.
    pub fn from_fields_v1(fields: &Value) -> Result<FieldSet, String> {
        let mut out = FieldSet::default();
        let Some(entries) = fields.as_object() else {
            return if fields.is_null() { Ok(out) } else { Err("expected an object".to_owned()) };
        };
        for (text, inner) in entries.iter().filter(|(text, _)| *text != ".") {
            let element = element::normalize(text)?;
            let below = FieldSet::from_fields_v1(inner)?;
            // An element with nothing inside, or with a dot inside, is a member itself.
            let member = below.is_empty() || inner.get(".").is_some();
            out.put(element, member, below);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_v1_round_trip() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:list": {"v:\"a\"": {}}}});
        let set = FieldSet::from_fields_v1(&fields).expect("reads");
        assert_eq!(set.to_fields_v1(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.list[=\"a\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
        let spaced = json!({"k:{ \"b\": 1, \"a\": \"x\" }": {}});
        assert_eq!(
            FieldSet::from_fields_v1(&spaced).expect("reads").to_fields_v1(),
            json!({"k:{\"a\":\"x\",\"b\":1}": {}})
        );
        assert!(FieldSet::from_fields_v1(&json!({"x:y": {}})).is_err());
    }

    /// Sets of paths over a small alphabet, so that random sets overlap.
    fn paths() -> impl Strategy<Value = BTreeSet<Vec<String>>> {
        let path = prop::collection::vec("[a-c]", 1..4);
        prop::collection::btree_set(path, 0..12)
    }

    fn build(paths: &BTreeSet<Vec<String>>) -> FieldSet {
        let borrowed: Vec<Vec<&str>> = paths.iter().map(|p| p.iter().map(String::as_str).collect()).collect();
        let slices: Vec<&[&str]> = borrowed.iter().map(Vec::as_slice).collect();
        FieldSet::from_names(&slices)
    }

    fn naive(paths: impl Iterator<Item = Vec<String>>) -> Vec<String> {
        let printed: BTreeSet<String> = paths.map(|p| p.iter().map(|e| format!(".{e}")).collect()).collect();
        printed.into_iter().collect()
    }

    fn sorted(set: &FieldSet) -> Vec<String> {
        let mut paths = set.paths();
        paths.sort_unstable();
        paths
    }

    proptest! {
        #[test]
        fn set_algebra_equals_sets_of_paths(a in paths(), b in paths()) {
            let (x, y) = (build(&a), build(&b));
            prop_assert_eq!(sorted(&x.union(&y)), naive(a.union(&b).cloned()));
            prop_assert_eq!(sorted(&x.intersection(&y)), naive(a.intersection(&b).cloned()));
            prop_assert_eq!(sorted(&x.difference(&y)), naive(a.difference(&b).cloned()));
            let mut in_place = x.clone();
            in_place.remove_all(&y);
            prop_assert_eq!(in_place, x.difference(&y));
            let under = |p: &Vec<String>| (1..=p.len()).any(|n| b.contains(&p[..n]));
            prop_assert_eq!(sorted(&x.recursive_difference(&y)), naive(a.iter().filter(|p| !under(p)).cloned()));
            prop_assert_eq!(FieldSet::from_fields_v1(&x.to_fields_v1()), Ok(x));
        }
    }
}
