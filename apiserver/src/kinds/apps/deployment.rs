//! Validation of deployments.

use machinery::status::FieldError;
use serde_json::Value;

use super::{runs_forever, selector_and_template, selector_is_fixed, status};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, int_or_percent, percent_of};

/// The whole object.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    selector_and_template(&spec, "deployment", errors);
    runs_forever(&spec.get("template"), "ReplicaSet", errors);
    strategy(&spec.get("strategy"), errors);
    let deadline = spec.get("progressDeadlineSeconds");
    let ready = spec.get("minReadySeconds").int().unwrap_or_default();
    if let Some(secs) = deadline.int().filter(|secs| *secs <= ready) {
        errors.push(FieldError::invalid(&deadline, secs, "must be greater than minReadySeconds"));
    }
    selector_is_fixed(new, old, errors);
}

fn strategy(strategy: &At<'_, '_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&rolling, detail));
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            errors.push(FieldError::required(&rolling, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => rolling_update(&rolling, errors),
        _ => {
            errors.push(FieldError::not_supported(
                strategy,
                strategy.value.clone(),
                &["Recreate", "RollingUpdate"],
            ));
        }
    }
}

fn rolling_update(rolling: &At<'_, '_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    errors.extend(int_or_percent(&unavailable));
    errors.extend(int_or_percent(&surge));
    if number(unavailable.value) == 0 && number(surge.value) == 0 {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(&unavailable, unavailable.value.clone(), detail));
    }
    errors.extend(at_most_all(&unavailable));
}

/// The number or the number of percents.
pub fn number(value: &Value) -> i64 {
    percent_of(value).or_else(|| value.as_i64()).unwrap_or_default()
}

/// A percentage is not above a hundred.
pub fn at_most_all(at: &At<'_, '_>) -> Option<FieldError> {
    let above = percent_of(at.value).is_some_and(|percent| percent > 100);
    above.then(|| FieldError::invalid(at, at.value.clone(), "must not be greater than 100%"))
}

/// The status.
pub fn check_status(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let bounded = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    let others = ["observedGeneration", "unavailableReplicas", "terminatingReplicas", "collisionCount"];
    status::counters(new, &bounded, &others, "cannot be greater than readyReplicas", errors);
    status::collisions(new, old, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_strategy(value: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        strategy(&At::placed("s", &value), &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{value}");
    }

    #[test]
    fn strategies() {
        check_strategy(
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "0%"}}),
            &[],
        );
        check_strategy(
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}),
            &["s.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        );
        check_strategy(
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "101%"}}),
            &[r#"s.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#],
        );
        check_strategy(
            json!({"type": "Recreate", "rollingUpdate": {}}),
            &["s.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
        );
        check_strategy(
            json!({"type": "Slow"}),
            &[r#"s: Unsupported value: {"type":"Slow"}: supported values: "Recreate", "RollingUpdate""#],
        );
    }
}
