//! What a Binding does to its pod. Pure; the pipeline stores the result with compare-and-set.

use jiff::Timestamp;
use machinery::status::{FieldError, StatusError};
use serde_json::json;

use crate::contract::Object;
use crate::kinds::json::{entries, has, is_set, items_mut, push, set, set_if_zero, text};

/// Checks the Binding itself.
pub fn validate(binding: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(binding, &["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&"target.kind", kind, &["Node", "<empty>"]));
    }
    if !has(binding, &["target", "name"]) {
        errors.push(FieldError::required(&"target.name", ""));
    }
    errors
}

/// Puts the pod on the node.
pub fn apply(pod: &mut Object, binding: &Object, now: Timestamp) -> Result<(), StatusError> {
    let name = text(pod, &["metadata", "name"]).to_owned();
    let refuse = |why: String| Err(StatusError::conflict("", "pods/binding", &name, why));
    let (uid, version) =
        (text(binding, &["metadata", "uid"]), text(binding, &["metadata", "resourceVersion"]));
    for (field, wanted) in [("uid", uid), ("resourceVersion", version)] {
        let own = text(pod, &["metadata", field]);
        if !wanted.is_empty() && wanted != own {
            let label = if field == "uid" { "UID" } else { "ResourceVersion" };
            return refuse(format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {own}"
            ));
        }
    }
    if is_set(pod, &["metadata", "deletionTimestamp"]) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = text(pod, &["spec", "nodeName"]);
    if !current.is_empty() {
        return refuse(format!(
            "pod {name} is already assigned to node {}",
            machinery::gotext::quote(current)
        ));
    }
    if has(pod, &["spec", "schedulingGates"]) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    set(pod, &["spec", "nodeName"], text(binding, &["target", "name"]));
    for (key, value) in entries(binding, &["metadata", "annotations"]) {
        set(pod, &["metadata", "annotations", key], value.clone());
    }
    for (key, value) in entries(binding, &["metadata", "labels"]) {
        if key.starts_with("topology.kubernetes.io/") {
            set_if_zero(pod, &["metadata", "labels", key], value.clone());
        }
    }
    mark_scheduled(pod, now);
    Ok(())
}

fn mark_scheduled(pod: &mut Object, now: Timestamp) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": machinery::time::format_time(now),
    });
    let known = items_mut(pod, &["status", "conditions"]).iter_mut().find(|c| c["type"] == "PodScheduled");
    match known {
        Some(old) => *old = condition,
        None => push(pod, &["status", "conditions"], condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn check(pod: Value, expected: Result<&str, &str>) {
        let mut pod = pod;
        let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        let got = apply(&mut pod, &binding, Timestamp::UNIX_EPOCH);
        let got =
            got.map(|()| text(&pod, &["spec", "nodeName"]).to_owned()).map_err(|e| e.message().to_owned());
        assert_eq!(got.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn bindings() {
        check(json!({"metadata": {"name": "p"}, "spec": {}}), Ok("n1"));
        check(
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n0"}}),
            Err(
                r#"Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n0""#,
            ),
        );
        check(
            json!({"metadata": {"name": "p", "deletionTimestamp": "x"}, "spec": {}}),
            Err(
                r#"Operation cannot be fulfilled on pods/binding "p": pod p is being deleted, cannot be assigned to a host"#,
            ),
        );
    }
}
