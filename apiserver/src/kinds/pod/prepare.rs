//! What the server sets in a pod on create and update.

use serde_json::{Value, json};

use super::resources::qos_class;
use crate::contract::{Object, RequestContext};
use crate::kinds::json::{at, has, int, is_set, items, items_mut, keep, push, remove, set, text, texts};

/// A new pod is pending, knows its class, and waits when it is gated.
pub fn create(_: &RequestContext, pod: &mut Object) {
    let class = qos_class(pod);
    set(pod, &["status"], json!({"phase": "Pending", "qosClass": class}));
    if has(pod, &["spec", "schedulingGates"]) {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        });
        push(pod, &["status", "conditions"], condition);
    }
    merge_label_keys(pod);
}

/// Label keys of affinity terms and spread constraints become part of their selectors.
fn merge_label_keys(pod: &mut Object) {
    let labels = at(pod, &["metadata", "labels"]).clone();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for term in items_mut(pod, &["spec", "affinity", kind, required]) {
            merge_term(term, &labels);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for weighted in items_mut(pod, &["spec", "affinity", kind, preferred]) {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_term(term, &labels);
            }
        }
    }
    for constraint in items_mut(pod, &["spec", "topologySpreadConstraints"]) {
        merge_keys(constraint, "matchLabelKeys", "In", &labels);
    }
}

fn merge_term(term: &mut Value, labels: &Value) {
    merge_keys(term, "matchLabelKeys", "In", labels);
    merge_keys(term, "mismatchLabelKeys", "NotIn", labels);
}

fn merge_keys(holder: &mut Value, field: &str, operator: &str, labels: &Value) {
    if !is_set(holder, &["labelSelector"]) {
        return;
    }
    let keys: Vec<String> = texts(holder, &[field]).map(str::to_owned).collect();
    for key in keys {
        if let Some(value) = labels.get(&key) {
            let requirement = json!({"key": key, "operator": operator, "values": [value]});
            push(holder, &["labelSelector", "matchExpressions"], requirement);
        }
    }
}

/// The status may not end a deletion, change owners or forget what was observed.
pub fn update_status(_: &RequestContext, new: &mut Object, old: &Object) {
    keep(new, old, &["metadata", "deletionTimestamp"]);
    keep(new, old, &["metadata", "ownerReferences"]);
    if !has(new, &["status", "qosClass"]) {
        keep(new, old, &["status", "qosClass"]);
    }
    if !has(new, &["status", "observedGeneration"]) {
        keep(new, old, &["status", "observedGeneration"]);
    }
    let mut remembered: Vec<(String, i64)> = items(old, &["status", "conditions"])
        .iter()
        .map(|c| (text(c, &["type"]).to_owned(), int(c, &["observedGeneration"]).unwrap_or_default()))
        .collect();
    for condition in items_mut(new, &["status", "conditions"]) {
        let known = remembered.iter().position(|(kind, _)| kind == text(condition, &["type"]));
        let generation = known.map_or(0, |index| remembered.remove(index).1);
        if generation != 0 && int(condition, &["observedGeneration"]).unwrap_or_default() == 0 {
            set(condition, &["observedGeneration"], generation);
        }
    }
}

/// `/ephemeralcontainers` changes that list and nothing else.
pub fn update_ephemeral_containers(_: &RequestContext, new: &mut Object, old: &Object) {
    let containers = remove(new, &["spec", "ephemeralContainers"]);
    restore(new, old);
    match containers {
        Some(containers) => set(new, &["spec", "ephemeralContainers"], containers),
        None => drop(remove(new, &["spec", "ephemeralContainers"])),
    }
}

/// `/resize` changes resources of the pod and its containers; changed resize policies are left for validation to refuse.
pub fn update_resize(_: &RequestContext, new: &mut Object, old: &Object) {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let names = |pod: &Object, list: &str| -> Vec<String> {
        items(pod, &["spec", list]).iter().map(|c| text(c, &["name"]).to_owned()).collect()
    };
    // Other changes of the lists are left in place for validation to refuse.
    if LISTS.iter().any(|list| names(new, list) != names(old, list)) {
        return;
    }
    let wanted = new.clone();
    restore(new, old);
    keep(new, &wanted, &["spec", "resources"]);
    for list in LISTS {
        let from = items(&wanted, &["spec", list]);
        for (container, from) in items_mut(new, &["spec", list]).iter_mut().zip(from) {
            keep(container, from, &["resources"]);
            keep(container, from, &["resizePolicy"]);
        }
    }
}

/// Everything as in the old pod but for the metadata that a subresource may change.
fn restore(new: &mut Object, old: &Object) {
    for field in ["spec", "status"] {
        keep(new, old, &[field]);
    }
    for field in ["deletionTimestamp", "generation", "ownerReferences", "labels", "annotations", "finalizers"]
    {
        keep(new, old, &["metadata", field]);
    }
}

/// The grace period of a deletion: at once for pods that never ran or ended.
pub fn grace(pod: &Object, asked: Option<i64>) -> Option<i64> {
    let own = int(pod, &["spec", "terminationGracePeriodSeconds"]).unwrap_or_default();
    let ended = matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    let period = asked.unwrap_or(own);
    if ended || !has(pod, &["spec", "nodeName"]) {
        return Some(0);
    }
    Some(if period < 0 { 1 } else { period })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_periods() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        for (node, phase, asked, expected) in [
            ("n", "Running", None, 30),
            ("n", "Running", Some(5), 5),
            ("n", "Running", Some(-1), 1),
            ("n", "Succeeded", Some(5), 0),
            ("", "Pending", None, 0),
        ] {
            assert_eq!(grace(&pod(node, phase), asked), Some(expected), "{node} {phase} {asked:?}");
        }
    }

    #[test]
    fn label_keys_join_selectors() {
        let mut pod = json!({
            "metadata": {"labels": {"v": "1"}},
            "spec": {"topologySpreadConstraints": [{"matchLabelKeys": ["v", "w"], "labelSelector": {}}, {"matchLabelKeys": ["v"]}]}});
        merge_label_keys(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"],
            json!([
                {"matchLabelKeys": ["v", "w"], "labelSelector": {"matchExpressions": [{"key": "v", "operator": "In", "values": ["1"]}]}},
                {"matchLabelKeys": ["v"]}])
        );
    }
}
