//! Defaults of workloads that depend on other fields.

use serde_json::{Value, json};

use crate::contract::Object;
use crate::kinds::json::{at, entries, find_mut, is_set, items_mut, set, set_if_null, set_if_zero, text};
use crate::kinds::pod::defaults as pod;

const TEMPLATE_SPEC: [&str; 3] = ["spec", "template", "spec"];

/// Defaults of the pod template alone.
pub fn template(object: &mut Object) {
    pod::template(object, &TEMPLATE_SPEC);
}

/// Rolling updates go by quarters.
pub fn deployment(object: &mut Object) {
    template(object);
    if text(object, &["spec", "strategy", "type"]) == "RollingUpdate" {
        for bound in ["maxUnavailable", "maxSurge"] {
            set_if_null(object, &["spec", "strategy", "rollingUpdate", bound], "25%");
        }
    }
}

/// Rolling updates go one by one, without surge.
pub fn daemon_set(object: &mut Object) {
    template(object);
    if text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        set_if_null(object, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], 1);
        set_if_null(object, &["spec", "updateStrategy", "rollingUpdate", "maxSurge"], 0);
    }
}

/// Only a strategy that was left out altogether gets a rolling update.
pub fn stateful_set(object: &mut Object) {
    template(object);
    let strategy = ["spec", "updateStrategy"];
    if text(object, &["spec", "updateStrategy", "type"]).is_empty() {
        set(object, &["spec", "updateStrategy", "type"], "RollingUpdate");
        set_if_null(object, &["spec", "updateStrategy", "rollingUpdate"], json!({}));
    }
    let rolling = text(at(object, &strategy), &["type"]) == "RollingUpdate";
    if rolling && is_set(object, &["spec", "updateStrategy", "rollingUpdate"]) {
        set_if_null(object, &["spec", "updateStrategy", "rollingUpdate", "partition"], 0);
    }
    for claim in items_mut(object, &["spec", "volumeClaimTemplates"]) {
        set_if_null(claim, &["apiVersion"], "v1");
        set_if_null(claim, &["kind"], "PersistentVolumeClaim");
        set_if_null(claim, &["spec", "volumeMode"], "Filesystem");
        set_if_zero(claim, &["status", "phase"], "Pending");
    }
}

/// Selector and labels follow the template's labels.
pub fn replication_controller(object: &mut Object) {
    template(object);
    let labels = at(object, &["spec", "template", "metadata", "labels"]).clone();
    if entries(&labels, &[]).next().is_none() {
        return;
    }
    for path in [&["spec", "selector"][..], &["metadata", "labels"]] {
        if find_mut(object, path).is_none_or(|value| *value == Value::Null || *value == json!({})) {
            set(object, path, labels.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies() {
        let mut object =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        deployment(&mut object);
        assert_eq!(
            object,
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}}}})
        );
        let mut object = json!({"spec": {"strategy": {"type": "Recreate"}}});
        deployment(&mut object);
        assert_eq!(object, json!({"spec": {"strategy": {"type": "Recreate"}}}));
        let mut object = json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}});
        stateful_set(&mut object);
        assert_eq!(object, json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}}));
    }
}
