//! Validation of daemon sets.

use machinery::selector::Labels;
use machinery::status::FieldError;

use super::deployment::{at_most_all, number};
use super::{matches_template, status};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, int_or_percent, non_negative};
use crate::kinds::json::{at, keep, same, set, text};

/// Counts the versions of the template; `apps/v1` shows the count as an annotation.
const GENERATION: [&str; 3] = ["metadata", "annotations", "deprecated.daemonset.template.generation"];

/// A new set's template is the first one.
pub fn create(_: &RequestContext, new: &mut Object) {
    if text(new, &GENERATION).parse::<i64>().unwrap_or_default() < 1 {
        set(new, &GENERATION, "1");
    }
}

/// Every change of the template counts.
pub fn update(_: &RequestContext, new: &mut Object, old: &Object) {
    keep(new, old, &GENERATION);
    let template = ["spec", "template"];
    if !same(at(new, &template), at(old, &template)) {
        let count: i64 = text(old, &GENERATION).parse().unwrap_or_default();
        set(new, &GENERATION, (count + 1).to_string());
    }
}

/// The whole object.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    errors.extend(checks::label_selector(&selector));
    let parsed = Labels::from_value(selector.value).ok();
    // No selector selects nothing, not even the template.
    if parsed.as_ref().is_some_and(|parsed| !parsed.matches(template.get("metadata").get("labels").value)) {
        let path = template.to_string() + ".metadata.labels";
        let labels = at(template.value, &["metadata", "labels"]).clone();
        errors.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
    }
    if selector.is_set()
        && selector.get("matchLabels").is_empty()
        && selector.get("matchExpressions").is_empty()
    {
        let detail = "empty selector is invalid for daemonset";
        errors.push(FieldError::invalid(&selector, selector.value.clone(), detail));
    }
    matches_template(None, &template, errors);
    super::runs_forever(&template, "DaemonSet", errors);
    strategy(&spec.get("updateStrategy"), errors);
    super::selector_is_fixed(new, old, errors);
}

fn strategy(strategy: &At<'_, '_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => errors.push(FieldError::required(&rolling, "")),
        "RollingUpdate" => rolling_update(&rolling, errors),
        _ => {
            let supported = ["RollingUpdate", "OnDelete"];
            errors.push(FieldError::not_supported(strategy, strategy.value.clone(), &supported));
        }
    }
}

fn rolling_update(rolling: &At<'_, '_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for bound in [&unavailable, &surge] {
        errors.extend(int_or_percent(bound));
        errors.extend(at_most_all(bound));
    }
    let zeros = (number(unavailable.value) == 0, number(surge.value) == 0);
    if zeros == (true, true) {
        let detail = "cannot be 0 when maxSurge is 0";
        errors.push(FieldError::required(&unavailable, detail));
    } else if zeros == (false, false) {
        let detail = "may not be set when maxUnavailable is non-zero";
        errors.push(FieldError::invalid(&surge, surge.value.clone(), detail));
    }
}

/// The status.
pub fn check_status(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for name in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        errors.extend(non_negative(&status.get(name)));
    }
    status::collisions(new, old, errors);
}
