//! The four forms of patch, and the managedFields that strangers send.

use machinery::{apply, json, patch, schema, yaml};
use serde_json::json;

use super::{POD, pod, texts};

pub fn json_examples() -> Vec<Vec<u8>> {
    texts(&[
        r#"[{"op":"add","path":"/spec/containers/-","value":{}},{"op":"move","from":"/metadata/name","path":"/spec/x~1y"},{"op":"test","path":"","value":1}]"#,
        r#"[{"op":"remove","path":"/a/0"},{"op":"copy","from":"/a","path":"/a/1"},{"op":"replace","path":"/d~1e/~0","value":null}]"#,
        r#"{"metadata":{"labels":{"a":null,"b":{"c":[1]}}}}"#,
        r#"[{"op":"copy","from":"","path":"/a/1/b"},{"op":"copy","from":"","path":"/a/1/b/a/1/b"}]"#,
    ])
}

/// JSON patches and merge patches apply or are refused; what comes of them nests no deeper than what can be read.
pub fn json(bytes: &[u8]) {
    let Ok(parsed) = json::parse(bytes) else { return };
    for document in [json!({"a": [1, {"b": "c"}, []], "d/e": {"~": null}}), pod()] {
        let merged = patch::merge_patch(&document, &parsed.value);
        for made in [patch::json_patch(&document, &parsed.value).ok(), Some(merged)].into_iter().flatten() {
            assert_eq!(json::too_deep(&made, json::DEPTH_MAX), None);
        }
    }
}

pub fn strategic_examples() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["a"]}}"#,
        r#"{"metadata":{"labels":{"a":null},"finalizers":["x"],"$deleteFromPrimitiveList/finalizers":["y"]}}"#,
        r#"{"spec":{"volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/"}},{"$patch":"replace"}]}}"#,
    ])
}

/// Strategic merge patches apply to a pod or are refused.
pub fn strategic(bytes: &[u8]) {
    let (Ok(parsed), Some(schema)) = (json::parse(bytes), schema::for_kind("", "v1", "Pod")) else { return };
    let _ = patch::strategic(&schema, &pod(), &parsed.value);
}

fn manager() -> apply::Manager {
    apply::Manager { name: "m".into(), subresource: String::new(), now: jiff::Timestamp::UNIX_EPOCH }
}

pub fn apply_examples() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","env":[{"name":"A"}]}]}}"#,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, finalizers: [z]}\nspec:\n  containers: [{name: d, image: e}]\n",
    ])
}

/// Applied configurations, over a pod that is there and one that is not.
pub fn apply(bytes: &[u8]) {
    let (Ok(parsed), Some(schema)) = (yaml::parse(bytes), schema::for_kind("", "v1", "Pod")) else { return };
    if !parsed.value.is_object() {
        return;
    }
    let (live, reset) = (pod(), apply::ResetFields::none());
    for (live, force) in [(Some(&live), true), (Some(&live), false), (None, false)] {
        let _ = apply::apply(&schema, "v1", live, &parsed.value, &manager(), force, &reset);
    }
}

pub fn managed_examples() -> Vec<Vec<u8>> {
    texts(&[
        POD,
        r#"{"metadata":{"managedFields":[{"manager":"a","operation":"Apply","fieldsV1":{"f:a":{"i:0":{},"v:1":{},"k:{\"a\":1,\"b\":[]}":{}}}},{"operation":"x"},{}]}}"#,
    ])
}

/// An update by somebody who made up the managedFields, and an apply after it.
pub fn managed_fields(bytes: &[u8]) {
    let (Ok(parsed), Some(schema)) = (json::parse(bytes), schema::for_kind("", "v1", "Pod")) else { return };
    if !parsed.value.is_object() {
        return;
    }
    let (mut new, reset) = (parsed.value.clone(), apply::ResetFields::none());
    apply::track_update(&schema, "v1", Some(&parsed.value), &mut new, &manager(), &reset);
    let _ = apply::apply(&schema, "v1", Some(&parsed.value), &pod(), &manager(), false, &reset);
}
