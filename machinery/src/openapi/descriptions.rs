//! What `kubectl explain` says about built-in types and their fields, from `tables/descriptions.tsv`.

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

static TABLE: &str = include_str!("../../tables/descriptions.tsv");

/// Rows for every type, and for every type that is no kind of its own.
const ANY_TYPE: &str = "*";
const ANY_PART: &str = "-";

static ROWS: LazyLock<FxHashMap<(&str, &str), &str>> = LazyLock::new(|| {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let mut columns = line.splitn(3, '\t');
        Some(((columns.next()?, columns.next()?), columns.next()?))
    })
    .collect()
});

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`: what the table calls a type.
fn short(name: &str) -> &str {
    let cut = name.rmatch_indices('.').nth(2).map_or(0, |(dot, _)| dot + 1);
    &name[cut..]
}

/// What a type is.
pub(super) fn of_type(name: &str) -> Option<&'static str> {
    ROWS.get(&(short(name), "")).copied()
}

/// What a field of a type is; `is_kind` says whether the type stands for itself.
pub(super) fn of_field(name: &str, is_kind: bool, field: &str) -> Option<&'static str> {
    let part = (!is_kind).then_some(ANY_PART);
    let places = [Some(short(name)), part, Some(ANY_TYPE)];
    places.into_iter().flatten().find_map(|place| ROWS.get(&(place, field)).copied())
}

/// What a field that every kind has is.
pub(super) fn of_any_kind(field: &str) -> &'static str {
    ROWS.get(&(ANY_TYPE, field)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_about_a_type_and_field_that_exist() {
        for (place, field) in ROWS.keys().filter(|(place, _)| ![ANY_TYPE, ANY_PART].contains(place)) {
            let known = crate::schema::builtin::names().find(|name| short(name) == *place);
            let schema = known.and_then(crate::schema::definition);
            let schema = schema.unwrap_or_else(|| panic!("{place} is no type"));
            let has = |s: &crate::schema::Struct| s.fields.iter().any(|f| f.name.as_ref() == *field);
            assert!(field.is_empty() || schema.root().as_struct().is_some_and(has), "{place}.{field}");
        }
    }

    #[test]
    fn most_particular_first() {
        let pod = "io.k8s.api.core.v1.Pod";
        assert_eq!(of_type(pod), Some("Pod is a collection of containers that run together on one node."));
        assert_eq!(of_field(pod, true, "spec"), Some("The desired behaviour of the pod."));
        assert!(of_field(pod, true, "apiVersion").is_some_and(|text| text.starts_with("APIVersion defines")));
        let owner = "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference";
        assert_eq!(of_field(owner, false, "kind"), Some("The kind of what is referred to."));
        assert_eq!(of_field(owner, false, "nothing"), None);
    }
}
