//! Ownership as upstream has it, and random objects against a slow reference.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{for_kind, from_crd};

fn manager(name: &str, at: i64) -> Manager {
    Manager {
        name: name.to_owned(),
        subresource: String::new(),
        now: Timestamp::from_second(at).expect("in range"),
    }
}

fn config_map() -> Schema {
    for_kind("", "v1", "ConfigMap").expect("a known kind")
}

fn deployment() -> Schema {
    for_kind("apps", "v1", "Deployment").expect("a known kind")
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn applied(live: Option<&Value>, data: Value, who: &str, force: bool) -> Result<Value, StatusError> {
    apply(&config_map(), "v1", live, &map(data), &manager(who, 100), force, &ResetFields::none())
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    object::list_at(object, &["metadata", "managedFields"])
        .iter()
        .map(|m| (object::text_at(m, &["manager"]).to_owned(), m["fieldsV1"].clone()))
        .collect()
}

#[test]
fn one_manager_adds_and_removes() {
    let live = applied(None, json!({"x": "1", "y": "2"}), "a", false).expect("applies");
    assert_eq!(owners(&live), [("a".to_owned(), json!({"f:data": {"f:x": {}, "f:y": {}}}))]);
    let live = applied(Some(&live), json!({"x": "3"}), "a", false).expect("applies");
    assert_eq!(live["data"], json!({"x": "3"}));
    assert_eq!(owners(&live), [("a".to_owned(), json!({"f:data": {"f:x": {}}}))]);
}

#[test]
fn two_managers_share_and_conflict() {
    let live = applied(None, json!({"x": "1", "y": "2"}), "a", false).expect("applies");
    let shared = applied(Some(&live), json!({"x": "1"}), "b", false).expect("the same value is shared");
    assert_eq!(owners(&shared).len(), 2);
    // b keeps x when a stops applying it.
    let kept = applied(Some(&shared), json!({"y": "2"}), "a", false).expect("applies");
    assert_eq!(kept["data"], json!({"x": "1", "y": "2"}));

    let error = applied(Some(&live), json!({"x": "9"}), "b", false).expect_err("conflicts");
    assert_eq!(
        (error.code(), error.message()),
        (409, "Apply failed with 1 conflict: conflict with \"a\": .data.x")
    );
    let forced = applied(Some(&live), json!({"x": "9"}), "b", true).expect("is forced");
    assert_eq!(
        owners(&forced),
        [("a".to_owned(), json!({"f:data": {"f:y": {}}})), ("b".to_owned(), json!({"f:data": {"f:x": {}}}))]
    );
}

#[test]
fn updates_take_fields_and_conflict_with_applies() {
    let live = applied(None, json!({"x": "1", "y": "2"}), "a", false).expect("applies");
    let mut new = live.clone();
    new["data"]["x"] = json!("7");
    new["metadata"]["uid"] = json!("u");
    track_update(
        &config_map(),
        "v1",
        Some(&live),
        &mut new,
        &manager("kubectl-edit", 200),
        &ResetFields::none(),
    );
    assert_eq!(
        owners(&new),
        [
            ("a".to_owned(), json!({"f:data": {"f:y": {}}})),
            ("kubectl-edit".to_owned(), json!({"f:data": {"f:x": {}}}))
        ]
    );
    let error = applied(Some(&new), json!({"x": "1", "y": "3"}), "a", false).expect_err("conflicts");
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.x"
    );
    let cause = &error.details().expect("details").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".data.x"));
}

#[test]
fn creation_owns_what_go_does_not_have_anyway() {
    let mut new = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "strategy": {},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}}},
        "status": {}});
    track_update(
        &deployment(),
        "apps/v1",
        None,
        &mut new,
        &manager("kubectl-create", 1),
        &ResetFields::new(&[&["status"]]),
    );
    assert_eq!(
        owners(&new)[0].1,
        json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}})
    );
}

#[test]
fn list_maps_sets_and_default_keys() {
    let schema = for_kind("", "v1", "Service").expect("a known kind");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": ["f"]}, "spec": {"ports": ports}});
    let none = ResetFields::none();
    let live = apply(&schema, "v1", None, &service(json!([{"port": 80}])), &manager("a", 1), false, &none)
        .expect("applies");
    assert_eq!(
        owners(&live)[0].1,
        json!({"f:metadata": {"f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}})
    );
    let more = service(json!([{"port": 80, "protocol": "TCP", "name": "x"}, {"port": 81}]));
    let live = apply(&schema, "v1", Some(&live), &more, &manager("b", 2), false, &none).expect("applies");
    assert_eq!(live["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "x"}, {"port": 81}]));
    let twice = service(json!([{"port": 80}, {"port": 80}]));
    let error = apply(&schema, "v1", None, &twice, &manager("a", 1), false, &none).expect_err("stands twice");
    assert_eq!(
        error.message(),
        "failed to create typed patch object (/s; v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"
    );
    let unknown =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"foo": 1}});
    let error = apply(&schema, "v1", None, &unknown, &manager("a", 1), false, &none).expect_err("is unknown");
    assert!(error.message().ends_with(".spec.foo: field not declared in schema"), "{error}");
}

#[test]
fn custom_types() {
    let openapi = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "atom": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string", "default": "d"}, "v": {"type": "integer"}}}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let schema = from_crd(&openapi, false).expect("compiles");
    let config = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "labels": {"l": "1"}},
        "spec": {"atom": {"a": "x"}, "items": [{"v": 1}], "any": {"deep": {"er": [1]}}}, "status": {"s": 1}});
    let reset = ResetFields::new(&[&["status"]]);
    let live = apply(&schema, "g/v1", None, &config, &manager("a", 1), false, &reset).expect("applies");
    assert_eq!(
        owners(&live)[0].1,
        json!({"f:metadata": {"f:labels": {"f:l": {}}},
            "f:spec": {"f:atom": {}, "f:items": {"k:{\"k\":\"d\"}": {".": {}, "f:v": {}}}, "f:any": {"f:deep": {".": {}, "f:er": {}}}}})
    );
}

#[test]
fn many_updaters_are_merged() {
    let mut live = map(json!({}));
    live["metadata"]["uid"] = json!("u");
    for i in 0..15 {
        let mut new = live.clone();
        new["data"][format!("k{i}")] = json!("v");
        let before = if i == 0 { None } else { Some(&live) };
        track_update(
            &config_map(),
            "v1",
            before,
            &mut new,
            &manager(&format!("m{i:02}"), i),
            &ResetFields::none(),
        );
        live = new;
    }
    let names: Vec<String> = owners(&live).into_iter().map(|o| o.0).collect();
    assert_eq!(names.len(), managers::UPDATE_MANAGERS_MAX);
    assert!(names.contains(&"ancient-changes".to_owned()), "{names:?}");
}

#[test]
fn untracked_objects_get_an_owner_before_the_first_apply() {
    let mut live = map(json!({"x": "1"}));
    live["metadata"]["uid"] = json!("u");
    let error = applied(Some(&live), json!({"x": "2"}), "a", false).expect_err("conflicts");
    assert!(error.message().contains("\"before-first-apply\" using v1: .data.x"), "{error}");
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": map(json!({"x": "1"})).to_string()});
    applied(Some(&live), json!({"x": "2"}), "kubectl", false).expect("moves from client-side apply");
}

#[test]
fn an_empty_list_forgets_all_owners() {
    let live = applied(None, json!({"x": "1"}), "a", false).expect("applies");
    let mut new = live.clone();
    new["metadata"]["uid"] = json!("u");
    let old = new.clone();
    new["metadata"]["managedFields"] = json!([]);
    track_update(&config_map(), "v1", Some(&old), &mut new, &manager("b", 2), &ResetFields::none());
    assert_eq!(owners(&new), []);
}

/// Applies of two managers on flat maps, the slow way: a field's value is the last one forced, it exists while
/// somebody applies it.
#[derive(Default)]
struct Reference {
    values: std::collections::BTreeMap<String, String>,
    owned: std::collections::BTreeMap<String, std::collections::BTreeSet<String>>,
}

impl Reference {
    fn apply(&mut self, who: &str, data: &std::collections::BTreeMap<String, String>) {
        let before = self.owned.remove(who).unwrap_or_default();
        for (key, value) in data {
            if self.values.get(key) != Some(value) {
                for owned in self.owned.values_mut() {
                    owned.remove(key);
                }
            }
            self.values.insert(key.clone(), value.clone());
        }
        for key in before {
            let others = self.owned.values().any(|owned| owned.contains(&key));
            if !data.contains_key(&key) && !others {
                self.values.remove(&key);
            }
        }
        self.owned.insert(who.to_owned(), data.keys().cloned().collect());
        self.owned.retain(|_, owned| !owned.is_empty());
    }
}

proptest! {
    #[test]
    fn forced_applies_equal_the_reference(
        steps in prop::collection::vec(("[ab]", prop::collection::btree_map("[x-z]", "[12]", 0..4)), 1..8)
    ) {
        let mut reference = Reference::default();
        let mut live: Option<Value> = None;
        for (who, data) in steps {
            reference.apply(&who, &data);
            let next = applied(live.as_ref(), json!(data), &who, true).expect("is forced");
            let values = next.get("data").cloned().unwrap_or_else(|| json!({}));
            prop_assert_eq!(&values, &json!(reference.values));
            for (owner, keys) in &reference.owned {
                let found = owners(&next).into_iter().find(|o| o.0 == *owner).map(|o| o.1["f:data"].clone());
                let mut found: Vec<String> = found.and_then(|f| f.as_object().map(|m| m.keys().filter(|k| *k != ".").cloned().collect())).unwrap_or_default();
                found.sort();
                let expected: Vec<String> = keys.iter().map(|k| format!("f:{k}")).collect();
                prop_assert_eq!(found, expected);
            }
            live = Some(next);
        }
    }

    #[test]
    fn applying_twice_changes_nothing(data in prop::collection::btree_map("[a-e]", "[a-e]", 1..5)) {
        let once = applied(None, json!(data), "a", false).expect("applies");
        let twice = applied(Some(&once), json!(data), "a", false).expect("applies");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn garbage_in_managed_fields_never_panics(text in "\\PC{0,20}") {
        let mut live = map(json!({"x": "1"}));
        live["metadata"]["managedFields"] = json!([{"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {text: {}}}]);
        let _ = applied(Some(&live), json!({"x": "2"}), "a", false);
        let mut new = live.clone();
        track_update(&config_map(), "v1", Some(&live), &mut new, &manager("b", 1), &ResetFields::none());
    }
}
