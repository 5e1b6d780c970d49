//! Validation of stateful sets.

use machinery::selector::Labels;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::{matches_template, mismatch, runs_forever, status};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, int_or_percent, non_negative};
use crate::kinds::json::{at, items, keep, remove, same, set, text};

/// What an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const UPDATE_REFUSED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// The whole object.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let management = spec.get("podManagementPolicy");
    if !matches!(management.text(), "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid(&management, management.text(), detail));
    }
    strategy(&spec.get("updateStrategy"), errors);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        let policy = retention.get(name);
        if retention.is_set() && !matches!(policy.text(), "Retain" | "Delete") {
            errors.push(FieldError::not_supported(&policy, policy.text(), &["Retain", "Delete"]));
        }
    }
    if let Some(start) = spec.get("ordinals").get("start").int().filter(|start| *start < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&"spec.ordinals.start", start, detail));
    }
    let service = spec.get("serviceName");
    if old.is_none() && service.has() {
        errors.extend(checks::named("label", &service));
    }
    selector(&spec, errors);
    runs_forever(&spec.get("template"), "StatefulSet", errors);
    if old.is_some_and(|old| changes_more(new, old)) {
        errors.push(FieldError::forbidden(&"spec", UPDATE_REFUSED));
    }
}

fn strategy(strategy: &At<'_, '_>, errors: &mut Errors) {
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "OnDelete" if rolling.is_set() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&rolling, rolling.value.clone(), detail));
        }
        "RollingUpdate" if rolling.is_set() => {
            errors.extend(non_negative(&rolling.get("partition")));
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                errors.extend(int_or_percent(&unavailable));
                if super::deployment::number(unavailable.value) == 0 {
                    errors.push(FieldError::invalid(&unavailable, unavailable.value.clone(), "cannot be 0"));
                }
                errors.extend(super::deployment::at_most_all(&unavailable));
            }
        }
        "OnDelete" | "RollingUpdate" => {}
        "" => errors.push(FieldError::required(strategy, "")),
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(strategy, strategy.value.clone(), detail));
        }
    }
}

fn selector(spec: &At<'_, '_>, errors: &mut Errors) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        errors.push(FieldError::required(&selector, ""));
    } else {
        errors.extend(checks::label_selector(&selector));
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            let detail = "empty selector is invalid for statefulset";
            errors.push(FieldError::invalid(&selector, selector.value.clone(), detail));
        }
    }
    let template = with_claim_volumes(spec.value);
    let place = spec.get("template");
    match Labels::from_value(selector.value) {
        Err(_) => errors.push(FieldError::invalid(&selector, selector.value.clone(), "")),
        Ok(parsed) => {
            if !selector.is_set() {
                // No selector selects nothing, not even the template.
                mismatch(&place.with(&template), errors);
            }
            matches_template(Some(&parsed).filter(|_| selector.is_set()), &place.with(&template), errors)
        }
    }
}

/// The template as its pods will have it: a volume for each claim template, names made by the controller.
fn with_claim_volumes(spec: &Value) -> Value {
    let mut template = at(spec, &["template"]).clone();
    remove(&mut template, &["spec", "subdomain"]);
    remove(&mut template, &["spec", "hostname"]);
    let claims: Vec<&str> = items(spec, &["volumeClaimTemplates"])
        .iter()
        .map(|claim| text(claim, &["metadata", "name"]))
        .collect();
    if claims.is_empty() {
        return template;
    }
    let own = items(&template, &["spec", "volumes"])
        .iter()
        .filter(|v| !claims.contains(&text(v, &["name"])))
        .cloned();
    let made = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let volumes: Vec<Value> = made.chain(own).collect();
    set(&mut template, &["spec", "volumes"], Value::Array(volumes));
    template
}

fn changes_more(new: &Object, old: &Object) -> bool {
    let mut masked = new.clone();
    for field in MUTABLE {
        keep(&mut masked, old, &["spec", field]);
    }
    !same(at(&masked, &["spec"]), at(old, &["spec"]))
}

/// The status.
pub fn check_status(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let bounded = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    let others = ["observedGeneration", "collisionCount"];
    status::counters(new, &bounded, &others, "cannot be greater than status.readyReplicas", errors);
    status::collisions(new, old, errors);
}
