//! What an update of a job may change.

use machinery::status::FieldError;

use crate::contract::Object;
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, immutable};
use crate::kinds::json::{at, flag, int, is_set, items, items_mut, keep, remove, same, set, text};

const FIXED: [&str; 6] =
    ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];

/// Completions in tandem with parallelism, templates of suspended jobs in part, the rest not at all.
pub fn check(new: &Object, old: &Object, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    completions(new, old, &spec, errors);
    template(&spec, old, errors);
    for name in FIXED {
        errors.extend(immutable(&spec.get(name), at(old, &["spec", name])));
    }
}

fn completions(new: &Object, old: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    let place = spec.get("completions");
    if spec.get("completionMode").text() != "Indexed" {
        errors.extend(immutable(&place, at(old, &["spec", "completions"])));
        return;
    }
    let now = place.int();
    if now == int(old, &["spec", "completions"]) || now.is_none() || now == int(new, &["spec", "parallelism"])
    {
        return;
    }
    let detail = "can only be modified in tandem with spec.parallelism";
    errors.push(FieldError::invalid(&place, place.value.clone(), detail));
}

fn template(spec: &At<'_, '_>, old: &Object, errors: &mut Errors) {
    let suspended = flag(old, &["spec", "suspend"]) == Some(true);
    let is_suspended =
        |condition: &serde_json::Value| condition["type"] == "Suspended" && condition["status"] == "True";
    let settled = !is_set(old, &["status", "startTime"])
        || items(old, &["status", "conditions"]).iter().any(is_suspended);
    let idle = int(old, &["status", "active"]).unwrap_or_default() == 0;
    let mut allowed = at(old, &["spec", "template"]).clone();
    let template = spec.get("template");
    if suspended && settled && idle {
        take_scheduling(&mut allowed, template.value);
        take_resources(&mut allowed, template.value);
    }
    if !same(template.value, &allowed) {
        errors.push(FieldError::invalid(&template, template.value.clone(), "field is immutable"));
    }
}

/// Scheduling directives may follow the new template.
fn take_scheduling(allowed: &mut Object, new: &Object) {
    for path in [
        &["spec", "nodeSelector"][..],
        &["spec", "tolerations"],
        &["spec", "schedulingGates"],
        &["metadata", "annotations"],
        &["metadata", "labels"],
    ] {
        keep(allowed, new, path);
    }
    let node_affinity = ["spec", "affinity", "nodeAffinity"];
    if is_set(new, &node_affinity) {
        set(allowed, &node_affinity, at(new, &node_affinity).clone());
    } else {
        remove(allowed, &node_affinity);
    }
}

/// Resources of containers that kept their names and order may follow the new template.
fn take_resources(allowed: &mut Object, new: &Object) {
    for list in ["containers", "initContainers"] {
        let wanted = items(new, &["spec", list]);
        let own = items_mut(allowed, &["spec", list]);
        if own.len() != wanted.len() {
            continue;
        }
        for (own, wanted) in own.iter_mut().zip(wanted) {
            if text(own, &["name"]) == text(wanted, &["name"]) {
                keep(own, wanted, &["resources"]);
            }
        }
    }
}
