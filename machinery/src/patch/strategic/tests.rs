//! Cases of strategic merge on pods and deployments.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::for_kind;

fn check(document: Value, patch: Value, result: Value) {
    let schema = for_kind("apps", "v1", "Deployment").expect("a known kind");
    let wrap = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    assert_eq!(strategic(&schema, &wrap(document), &wrap(patch)), Ok(wrap(result)));
}

fn failure(document: Value, patch: Value) -> PatchError {
    let schema = for_kind("apps", "v1", "Deployment").expect("a known kind");
    let wrap = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    strategic(&schema, &wrap(document), &wrap(patch)).expect_err("must not apply")
}

#[test]
fn maps_and_lists() {
    let two = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    check(
        two.clone(),
        json!({"containers": [{"name": "b", "image": "3"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
    );
    check(
        two.clone(),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b", "image": "2"}]}),
    );
    check(
        two.clone(),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        two,
        json!({"containers": [{"name": "c"}], "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
    );
    check(
        json!({"nodeSelector": {"a": "1", "b": "2"}, "priority": 3}),
        json!({"nodeSelector": {"a": null, "c": "3"}, "priority": null}),
        json!({"nodeSelector": {"b": "2", "c": "3"}}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}}),
        json!({"nodeSelector": {"$patch": "replace", "z": "9"}}),
        json!({"nodeSelector": {"z": "9"}}),
    );
    check(
        json!({"nodeSelector": {"a": "1"}}),
        json!({"nodeSelector": {"$patch": "delete"}}),
        json!({"nodeSelector": {}}),
    );
    // Lists without a merge key are replaced.
    check(
        json!({"tolerations": [{"key": "a"}]}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}]}),
    );
}

#[test]
fn ports_merge_by_container_port_alone() {
    check(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]}]}),
    );
}

#[test]
fn retain_keys_of_a_union() {
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
    );
    let error = failure(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {}}]}),
    );
    assert_eq!(error, PatchError::Unprocessable("patch content doesn't match retainKeys list".to_owned()));
}

#[test]
fn primitive_lists() {
    let schema = for_kind("", "v1", "ConfigMap").expect("a known kind");
    let document = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    for (patch, result) in [
        // What is new comes first, as kubectl's users know it.
        (json!({"finalizers": ["d"]}), json!(["d", "a", "b", "c"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["b"]}), json!(["a", "c"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["d"], "$setElementOrder/finalizers": ["d", "c", "b"]}),
            json!(["d", "c", "b"]),
        ),
    ] {
        let patched = strategic(&schema, &document, &json!({"metadata": patch})).expect("applies");
        assert_eq!(patched["metadata"]["finalizers"], result);
    }
}

#[test]
fn failures() {
    let document = json!({"containers": [{"name": "a"}]});
    for (patch, text) in [
        (
            json!({"containers": [{"image": "x"}]}),
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "x"}]}),
            "unknown patch type: x in map: map[$patch:x name:a]",
        ),
        (json!({"containers": ["x"]}), "list element types are not identical"),
    ] {
        assert_eq!(failure(document.clone(), patch).to_string(), text);
    }
}

proptest! {
    /// A patch that sets one container's image equals finding the container and setting it.
    #[test]
    fn merging_equals_the_naive_way(names in prop::collection::btree_set("[a-e]", 0..5), name in "[a-e]", image in "[0-9]") {
        let schema = for_kind("", "v1", "Pod").expect("a known kind");
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "old"})).collect();
        let document = json!({"spec": {"containers": containers}});
        let patched = strategic(&schema, &document, &json!({"spec": {"containers": [{"name": name, "image": image}]}})).expect("applies");
        let mut expected = containers;
        match expected.iter_mut().find(|c| c["name"] == name.as_str()) {
            Some(container) => container["image"] = json!(image),
            None => expected.insert(0, json!({"name": name, "image": image})),
        }
        prop_assert_eq!(&patched["spec"]["containers"], &Value::Array(expected));
    }
}
