//! Validation of ReplicaSets and ReplicationControllers.

use machinery::selector::Labels;
use machinery::status::FieldError;
use serde_json::json;

use super::{matches_template, runs_forever, selector_and_template, selector_is_fixed, status};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::Errors;

/// A ReplicaSet.
pub fn check_set(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    selector_and_template(&spec, "deployment", errors);
    runs_forever(&spec.get("template"), "ReplicaSet", errors);
    selector_is_fixed(new, old, errors);
}

/// A ReplicationController, whose selector is a plain map.
pub fn check_controller(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_empty() {
        errors.push(FieldError::required(&selector, ""));
    }
    if !template.is_set() {
        errors.push(FieldError::required(&template, ""));
        return;
    }
    let parsed = Labels::from_value(&json!({ "matchLabels": selector.value })).ok();
    matches_template(parsed.as_ref().filter(|_| !selector.is_empty()), &template, errors);
    runs_forever(&template, "ReplicationController", errors);
}

/// The status of either.
pub fn check_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let bounded = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let others = ["observedGeneration", "terminatingReplicas"];
    status::counters(new, &bounded, &others, "cannot be greater than readyReplicas", errors);
}
