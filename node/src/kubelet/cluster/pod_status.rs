//! Sends pod statuses to the API: only what the kubelet owns, only what changed, and never for another pod of
//! the same name.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::kubelet::pod::conditions::OWNED;
use crate::kubelet::pod::spec;

/// Conditions that stand only while a change of resources is under way: a merge keeps them unless told otherwise.
const PASSING: &[&str] = &["PodResizePending", "PodResizeInProgress"];

/// The strategic-merge patch from what the API shows to `status`; `None` if it shows it already.
pub fn patch(pod: &Pod, status: &PodStatus) -> Option<Value> {
    let old = to_object(&spec::status(pod));
    let mut new = to_object(status);
    let conditions = changed_conditions(&old, &new);
    new.remove("conditions");
    let mut body = Map::new();
    for (key, value) in &new {
        if old.get(key) != Some(value) {
            body.insert(key.clone(), replace_lists(key, value));
        }
    }
    for key in ["message", "reason"] {
        if old.contains_key(key) && !new.contains_key(key) {
            body.insert(key.to_owned(), Value::Null);
        }
    }
    if !conditions.is_empty() {
        body.insert("conditions".into(), Value::Array(conditions));
    }
    if body.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": spec::uid(pod)}, "status": body}))
}

fn to_object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Addresses merge by their own text; a new set must replace the old one.
fn replace_lists(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("podIPs" | "hostIPs", Value::Array(items)) => {
            let directive = std::iter::once(json!({"$patch": "replace"}));
            Value::Array(directive.chain(items.iter().cloned()).collect())
        }
        _ => value.clone(),
    }
}

fn changed_conditions(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Value> {
    let list = |map: &Map<String, Value>| map.get("conditions").and_then(Value::as_array).cloned();
    let before = list(old).unwrap_or_default();
    let owned = |c: &Value| c["type"].as_str().is_some_and(|t| OWNED.contains(&t) || t == "DisruptionTarget");
    let strip = |c: &Value| {
        let mut c = c.clone();
        if let Some(map) = c.as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
        c
    };
    let after = list(new).unwrap_or_default();
    let passed = before.iter().filter(|old| {
        old["type"].as_str().is_some_and(|t| PASSING.contains(&t))
            && !after.iter().any(|new| new["type"] == old["type"])
    });
    let passed: Vec<Value> = passed.map(|old| json!({"type": old["type"], "$patch": "delete"})).collect();
    let changed = after.into_iter().filter(owned).filter(|condition| {
        let known = before.iter().find(|b| b["type"] == condition["type"]).map(strip);
        known.is_none_or(|known| known != strip(condition))
    });
    changed
        .map(|mut condition| {
            // A merge keeps what is not named: what is gone must be named as gone.
            let known = before.iter().find(|b| b["type"] == condition["type"]);
            for key in ["reason", "message"] {
                let had = known.is_some_and(|k| k.get(key).is_some());
                if had && condition.get(key).is_none() {
                    condition[key] = Value::Null;
                }
            }
            condition
        })
        .chain(passed)
        .collect()
}

/// Sends a status. The answer is the pod as the API has it now.
pub async fn send(client: &Client, pod: &Pod, body: &Value) -> Result<Pod, kube::Error> {
    let api = Api::<Pod>::namespaced(client.clone(), spec::namespace(pod));
    api.patch_status(spec::name(pod), &PatchParams::default(), &Patch::Strategic(body)).await
}

/// Removes the API object of a pod of which nothing is left. Not found, or another pod by now, counts as done.
pub async fn remove(client: &Client, pod: &Pod) -> Result<(), kube::Error> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    let api = Api::<Pod>::namespaced(client.clone(), spec::namespace(pod));
    match api.delete(spec::name(pod), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(api: Value, status: Value, expected: Value) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": api})).expect("a pod");
        let status: PodStatus = serde_json::from_value(status).expect("a status");
        assert_eq!(patch(&pod, &status).unwrap_or(Value::Null)["status"], expected);
    }

    #[test]
    fn only_changes_are_sent() {
        check(json!({"phase": "Running"}), json!({"phase": "Running"}), Value::Null);
        check(json!({"phase": "Pending"}), json!({"phase": "Running"}), json!({"phase": "Running"}));
        check(
            json!({"phase": "Failed", "reason": "Evicted"}),
            json!({"phase": "Failed"}),
            json!({"reason": null}),
        );
        check(
            json!({}),
            json!({"podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.1"}]}),
        );
    }

    #[test]
    fn foreign_conditions_are_left_alone() {
        let ready = json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady"});
        let gate = json!({"type": "x/y", "status": "True"});
        let now = json!({"type": "Ready", "status": "True"});
        check(
            json!({"conditions": [ready, gate]}),
            json!({"conditions": [gate, now]}),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]}),
        );
        check(json!({"conditions": [now]}), json!({"conditions": [now]}), Value::Null);
    }

    #[test]
    fn a_resize_that_is_over_takes_its_condition_along() {
        let resizing = json!({"type": "PodResizeInProgress", "status": "True"});
        check(
            json!({"conditions": [resizing]}),
            json!({"conditions": []}),
            json!({"conditions": [{"type": "PodResizeInProgress", "$patch": "delete"}]}),
        );
        check(json!({"conditions": [resizing]}), json!({"conditions": [resizing]}), Value::Null);
    }
}
