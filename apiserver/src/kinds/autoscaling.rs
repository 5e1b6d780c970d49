//! HorizontalPodAutoscaler.

use machinery::names;
use machinery::resources::split_api_version;
use machinery::status::FieldError;
use serde_json::json;

use super::at::At;
use super::checks::{self, Errors, invalid, named, quantity};
use super::json::{at, is_set, set, set_if_null, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "autoscaling";
const RESOURCE: &str = "horizontalpodautoscalers";
const CPU_PERCENT: i64 = 80;
/// Where `v1` keeps the metrics it has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const WINDOW_MAX: i64 = 3600;
const PERIOD_MAX: i64 = 1800;
const SELECT_POLICIES: [&str; 3] = ["Disabled", "Max", "Min"];
const POLICY_TYPES: [&str; 2] = ["Percent", "Pods"];
/// Types of metrics with the field each fills, in upstream's order of looking.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// The rows of this kind.
pub const KINDS: &[Kind] = &[
    Kind { default, check, ..Kind::new(GROUP, RESOURCE) },
    Kind { check: check_status, ..Kind::sub(GROUP, RESOURCE, "status") },
];

fn default(scaler: &mut Object) {
    set_if_null(scaler, &["spec", "minReplicas"], 1);
    if split_api_version(text(scaler, &["apiVersion"])).1 == "v1" {
        let newer = is_set(scaler, &["metadata", "annotations", METRICS_ANNOTATION]);
        if !newer {
            set_if_null(scaler, &["spec", "targetCPUUtilizationPercentage"], CPU_PERCENT);
        }
        return;
    }
    if at(scaler, &["spec", "metrics"]).as_array().is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        set(scaler, &["spec", "metrics"], json!([metric]));
    }
    if is_set(scaler, &["spec", "behavior"]) {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        set_if_null(scaler, &["spec", "behavior", "scaleUp", "stabilizationWindowSeconds"], 0);
        for (direction, policies) in [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))] {
            set_if_null(scaler, &["spec", "behavior", direction, "selectPolicy"], "Max");
            set_if_null(scaler, &["spec", "behavior", direction, "policies"], policies);
        }
    }
}

fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (low, high) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    let (least, most) = (low.int(), high.int().unwrap_or_default());
    if let Some(number) = least.filter(|number| *number < 1) {
        errors.push(FieldError::invalid(&low, number, "must be greater than or equal to 1"));
    }
    match most {
        0 => errors.push(FieldError::required(&high, "must be set and greater than 0")),
        number if number < 0 => {
            errors.push(FieldError::invalid(&high, number, "must be greater than or equal to 1"));
        }
        _ => {}
    }
    if least.is_some_and(|least| most < least) {
        errors.push(FieldError::invalid(&high, most, "must be greater than or equal to `minReplicas`"));
    }
    let target = spec.get("scaleTargetRef");
    reference(&target, errors);
    target_version(&target, old, errors);
    let metrics = spec.get("metrics");
    metrics.items().for_each(|metric| check_metric(&metric, errors));
    let external = metrics.items().any(|metric| matches!(metric.get("type").text(), "Object" | "External"));
    if least == Some(0) && !external {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(&metrics, detail));
    }
    let behavior = spec.get("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        scaling_rules(&behavior.get(direction), errors);
    }
}

fn check_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for field in ["currentReplicas", "desiredReplicas"] {
        errors.extend(checks::non_negative(&status.get(field)));
    }
}

fn reference(reference: &At<'_, '_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        let value = reference.get(field);
        if value.has() {
            errors.extend(named("pathsegment", &value));
        } else {
            errors.push(FieldError::required(&value, ""));
        }
    }
    let version = reference.get("apiVersion");
    if version.text().matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {}", version.text());
        errors.push(FieldError::invalid(&version, version.text(), detail));
    }
}

/// The kind that is scaled is named with its group, but for the one kind of the core group that scales.
fn target_version(target: &At<'_, '_>, old: Option<&Object>, errors: &mut Errors) {
    let member = |field| text(target.value, &[field]);
    let unchanged = old.is_some_and(|old| {
        ["apiVersion", "kind"].iter().all(|f| text(old, &["spec", "scaleTargetRef", f]) == member(f))
    });
    let grouped = !split_api_version(member("apiVersion")).0.is_empty();
    if !unchanged && !grouped && member("kind") != "ReplicationController" {
        let version = target.get("apiVersion");
        errors.push(FieldError::invalid(&version, version.text(), "apiVersion must specify API group"));
    }
}

fn scaling_rules(rules: &At<'_, '_>, errors: &mut Errors) {
    if !rules.is_set() {
        return;
    }
    let window = rules.get("stabilizationWindowSeconds");
    match window.int() {
        Some(seconds) if seconds < 0 => {
            errors.push(FieldError::invalid(&window, seconds, "must be greater than or equal to zero"));
        }
        Some(seconds) if seconds > WINDOW_MAX => {
            let detail = format!("must be less than or equal to {WINDOW_MAX}");
            errors.push(FieldError::invalid(&window, seconds, detail));
        }
        _ => {}
    }
    let select = rules.get("selectPolicy");
    if select.is_set() && !SELECT_POLICIES.contains(&select.text()) {
        errors.push(FieldError::not_supported(&select, select.text(), &SELECT_POLICIES));
    }
    let policies = rules.get("policies");
    if policies.is_empty() {
        errors.push(FieldError::required(&policies, "must specify at least one Policy"));
    }
    for policy in policies.items() {
        let (kind, period) = (policy.get("type"), policy.get("periodSeconds"));
        if !POLICY_TYPES.contains(&kind.text()) {
            errors.push(FieldError::not_supported(&kind, kind.text(), &POLICY_TYPES));
        }
        for field in ["value", "periodSeconds"] {
            let value = policy.get(field);
            let number = value.int().unwrap_or_default();
            if number <= 0 {
                errors.push(FieldError::invalid(&value, number, "must be greater than zero"));
            }
        }
        if let Some(seconds) = period.int().filter(|seconds| *seconds > PERIOD_MAX) {
            let detail = format!("must be less than or equal to {PERIOD_MAX}");
            errors.push(FieldError::invalid(&period, seconds, detail));
        }
    }
    errors.extend(checks::non_negative_quantity(&rules.get("tolerance")));
}

fn check_metric(metric: &At<'_, '_>, errors: &mut Errors) {
    let kind = metric.get("type");
    if kind.text().is_empty() {
        errors.push(FieldError::required(&kind, "must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(FieldError::not_supported(&kind, kind.text(), &METRIC_TYPES));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.get(field).is_set()).collect();
    if let Some(first) = present.first() {
        check_source(&metric.get(first), first, errors);
    }
    match expected {
        Some(field) if !metric.get(field).is_set() => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(&metric.get(field), detail));
        }
        Some(_) => {}
        None => errors.push(FieldError::not_supported(&kind, kind.text(), &METRIC_TYPES)),
    }
    if present.len() != 1 {
        for field in present.iter().filter(|field| Some(**field) != expected) {
            errors.push(FieldError::forbidden(
                &metric.get(field),
                "must populate the given metric source only",
            ));
        }
    }
}

fn check_source(source: &At<'_, '_>, which: &str, errors: &mut Errors) {
    let by_resource = matches!(which, "resource" | "containerResource");
    if which == "object" {
        reference(&source.get("describedObject"), errors);
    }
    if by_resource {
        let (name, container) = (source.get("name"), source.get("container"));
        if !name.has() {
            errors.push(FieldError::required(&name, "must specify a resource name"));
        }
        if which == "containerResource" {
            match container.has() {
                true => errors.extend(named("label", &container)),
                false => errors.push(FieldError::required(&container, "must specify a container")),
            }
        }
    } else {
        let metric = source.get("metric");
        let name = metric.get("name");
        match name.has() {
            true => errors.extend(invalid(&name, names::path_segment_name(name.text()))),
            false => errors.push(FieldError::required(&name, "must specify a metric name")),
        }
    }
    let target = source.get("target");
    check_target(&target, errors);
    let (value, average, utilization) =
        (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match which {
        "object" if !value.is_set() && !average.is_set() => {
            errors.push(FieldError::required(&average, "must set either a target value or averageValue"));
        }
        "external" if !value.is_set() && !average.is_set() => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(FieldError::required(&average, detail));
        }
        "external" if value.is_set() && average.is_set() => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(&value, detail));
        }
        "pods" if !average.is_set() => {
            errors.push(FieldError::required(&average, "must specify a positive target averageValue"));
        }
        _ if by_resource && !utilization.is_set() && !average.is_set() => {
            let detail = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(&utilization, detail));
        }
        _ if by_resource && utilization.is_set() && average.is_set() => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(&average, detail));
        }
        _ => {}
    }
}

fn check_target(target: &At<'_, '_>, errors: &mut Errors) {
    let kind = target.get("type");
    if kind.text().is_empty() {
        errors.push(FieldError::required(&kind, "must specify a metric target type"));
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&kind, kind.text(), detail));
    }
    for field in ["value", "averageValue"] {
        let value = target.get(field);
        if quantity(value.value).is_some_and(|amount| amount.sign() != 1) {
            errors.push(FieldError::invalid(&value, value.value.clone(), "must be positive"));
        }
    }
    let utilization = target.get("averageUtilization");
    if let Some(number) = utilization.int().filter(|number| *number < 1) {
        errors.push(FieldError::invalid(&utilization, number, "must be greater than 0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn defaults() {
        let mut scaler = json!({"apiVersion": "autoscaling/v2", "spec": {"behavior": {"scaleDown": {"selectPolicy": "Min"}}}});
        default(&mut scaler);
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let down = json!({"selectPolicy": "Min", "policies": [percent]});
        assert_eq!(at(&scaler, &["spec", "behavior", "scaleDown"]), &down);
        assert_eq!(at(&scaler, &["spec", "behavior", "scaleUp", "stabilizationWindowSeconds"]), 0);
        assert_eq!(at(&scaler, &["spec", "minReplicas"]), 1);
        assert_eq!(at(&scaler, &["spec", "metrics",]).as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn metrics() {
        let check = |metric: Value, expected: &[&str]| {
            let mut errors = Errors::new();
            check_metric(&At::placed("m", &metric), &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{metric}");
        };
        let good = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}});
        check(json!({"type": "Resource", "resource": good}), &[]);
        check(
            json!({"type": "Pods", "resource": good}),
            &["m.pods: Required value: must populate information for the given metric source"],
        );
        check(
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value", "value": "0"}}}),
            &[
                r#"m.resource.target.value: Invalid value: "0": must be positive"#,
                "m.resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ],
        );
    }
}
