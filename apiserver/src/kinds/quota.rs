//! ResourceQuota and LimitRange.

use std::collections::BTreeSet;

use machinery::names;
use machinery::quantity::Quantity;
use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{Errors, quantity};
use super::json::{at, entries, items, items_mut, set_if_null, text, texts};
use super::kind::Kind;
use super::pod::requirements::{is_standard, quantity_value, resource_name};
use super::pod::resources::is_overcommit_allowed;
use crate::contract::{Object, RequestContext};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const CONFLICTING: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const POD_RESOURCES: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_quota, ..Kind::new("", "resourcequotas") },
    Kind { check: check_quota_status, ..Kind::sub("", "resourcequotas", "status") },
    Kind { default: default_range, check: check_range, ..Kind::new("", "limitranges") },
];

fn check_quota(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    amounts(&spec.get("hard"), errors);
    let scopes = spec.get("scopes");
    for scope in scopes.items() {
        scope_fits(scope.text(), &spec, &scopes, errors);
        if !SCOPES.contains(&scope.text()) {
            errors.push(FieldError::invalid(&scopes, scopes.value.clone(), "unsupported scope"));
        }
    }
    conflicting(texts(new, &["spec", "scopes"]).collect(), &scopes, errors);
    scope_selector(&spec, errors);
    let set = |quota: &Object| texts(quota, &["spec", "scopes"]).map(str::to_owned).collect::<BTreeSet<_>>();
    if old.is_some_and(|old| set(old) != set(new)) {
        errors.push(FieldError::invalid(&scopes, scopes.value.clone(), "field is immutable"));
    }
}

fn check_quota_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for which in ["hard", "used"] {
        amounts(&status.get(which), errors);
    }
}

fn amounts(list: &At<'_, '_>, errors: &mut Errors) {
    for (name, amount) in list.entries() {
        errors.extend(quota_resource_name(name, &amount));
        errors.extend(quantity_value(name, &amount));
    }
}

fn quota_resource_name(name: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let standard = is_standard(name) || name.starts_with("count/");
    let mut errors = if standard { Vec::new() } else { resource_name(name, at) };
    if !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(at, name, "must be a standard resource for quota"));
    }
    errors
}

fn scope_fits(scope: &str, spec: &At<'_, '_>, place: &At<'_, '_>, errors: &mut Errors) {
    for (name, _) in entries(spec.value, &["hard"]).filter(|(name, _)| is_standard(name)) {
        let fits = match scope {
            "BestEffort" => name == "pods",
            "VolumeAttributesClass" => name == "persistentvolumeclaims" || name.ends_with("storage"),
            _ => POD_RESOURCES.contains(&name) || name.contains("hugepages-"),
        };
        if !fits {
            errors.push(FieldError::invalid(
                place,
                place.value.clone(),
                "unsupported scope applied to resource",
            ));
        }
    }
}

fn conflicting(scopes: Vec<&str>, place: &At<'_, '_>, errors: &mut Errors) {
    for _ in CONFLICTING.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))) {
        errors.push(FieldError::invalid(place, place.value.clone(), "conflicting scopes"));
    }
}

fn scope_selector(spec: &At<'_, '_>, errors: &mut Errors) {
    let selector = spec.get("scopeSelector");
    let place = selector.get("matchExpressions");
    for requirement in items(place.value, &[]) {
        let of = |name: &str| text(requirement, &[name]);
        let (scope, operator, values) = (of("scopeName"), of("operator"), items(requirement, &["values"]));
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(&place.get("scopeName"), scope, "unsupported scope"));
        }
        scope_fits(scope, spec, &place.with(selector.value), errors);
        let by_class = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if !by_class && SCOPES.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(&place.get("operator"), operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&place.get("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                let shown = Value::Array(values.to_vec());
                errors.push(FieldError::invalid(&place.get("values"), shown, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(
                    &place.get("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
    }
    let scopes =
        items(place.value, &[]).iter().map(|requirement| text(requirement, &["scopeName"])).collect();
    conflicting(scopes, &spec.get("scopes"), errors);
}

/// Container limits default to the maximum, requests to limits, then to the minimum.
fn default_range(range: &mut Object) {
    for limit in items_mut(range, &["spec", "limits"]) {
        if text(limit, &["type"]) != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let source: Vec<(String, Value)> =
                entries(limit, &[from]).map(|(name, amount)| (name.to_owned(), amount.clone())).collect();
            for (name, amount) in source {
                set_if_null(limit, &[to, &name], amount);
            }
        }
    }
}

fn check_range(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let mut seen = Vec::new();
    for limit in spec.get("limits").items() {
        let kind = limit.get("type");
        let bad = names::qualified_name(kind.text());
        if bad.is_empty()
            && !kind.text().contains('/')
            && !matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            let detail = "must be a standard limit type or fully qualified";
            errors.push(FieldError::invalid(&kind, kind.text(), detail));
        }
        errors.extend(bad.into_iter().map(|text| FieldError::invalid(&kind, kind.text(), text)));
        if seen.contains(&kind.text()) {
            errors.push(FieldError::duplicate(&kind, kind.text()));
        }
        seen.push(kind.text());
        limit_names(&limit, errors);
        limit_values(&limit, errors);
    }
}

fn limit_names(limit: &At<'_, '_>, errors: &mut Errors) {
    let kind = limit.get("type").text();
    for which in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let list = limit.get(which);
        if kind == "Pod" && which.starts_with("default") {
            if !list.is_empty() {
                errors.push(FieldError::forbidden(&list, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, amount) in list.entries() {
            errors.extend(resource_name(name, &amount));
            let standard =
                matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if matches!(kind, "Pod" | "Container") && !name.contains('/') && !standard {
                errors.push(FieldError::invalid(&amount, name, "must be a standard resource for containers"));
            }
        }
    }
    let stores = |which: &str| !at(limit.value, &[which, "storage"]).is_null();
    if kind == "PersistentVolumeClaim" && !stores("min") && !stores("max") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&limit.get("limits"), detail));
    }
}

/// The amounts of one limit must be in order: min, default request, default, max.
fn limit_values(limit: &At<'_, '_>, errors: &mut Errors) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let keys: BTreeSet<&str> =
        lists.iter().flat_map(|list| entries(limit.value, &[list])).map(|(key, _)| key).collect();
    for key in keys {
        let of = |list: &str| quantity(at(limit.value, &[list, key]));
        let mut ordered =
            |low: &str, high: &str, place: &str, words: &str, shown: fn(Quantity, Quantity) -> Quantity| {
                if let (Some(low), Some(high)) = (of(low), of(high))
                    && low > high
                {
                    let (first, second) = words.split_once('|').unwrap_or((words, ""));
                    let detail = format!("{first} {low} is greater than {second} {high}");
                    let place = format!("{limit}.{place}[{key}]");
                    errors.push(FieldError::invalid(&place, shown(low, high).to_string(), detail));
                }
            };
        ordered("min", "max", "min", "min value|max value", |low, _| low);
        ordered("min", "defaultRequest", "defaultRequest", "min value|default request value", |_, high| high);
        ordered("defaultRequest", "max", "defaultRequest", "default request value|max value", |low, _| low);
        ordered(
            "defaultRequest",
            "default",
            "defaultRequest",
            "default request value|default limit value",
            |low, _| low,
        );
        ordered("min", "default", "default", "min value|default value", |low, _| low);
        ordered("default", "max", "default", "default value|max value", |_, high| high);
        ratio(limit, key, of("maxLimitRequestRatio"), of("min"), of("max"), errors);
        if let (false, Some(default), Some(request)) =
            (is_overcommit_allowed(key), of("default"), of("defaultRequest"))
            && default != request
        {
            let detail =
                format!("default value {default} must equal to defaultRequest value {request} in {key}");
            let place = format!("{limit}.defaultRequest[{key}]");
            errors.push(FieldError::invalid(&place, request.to_string(), detail));
        }
    }
}

fn ratio(
    limit: &At<'_, '_>,
    key: &str,
    ratio: Option<Quantity>,
    min: Option<Quantity>,
    max: Option<Quantity>,
    errors: &mut Errors,
) {
    let Some(ratio) = ratio else { return };
    let place = format!("{limit}.maxLimitRequestRatio[{key}]");
    if ratio.as_f64() < 1.0 {
        let detail = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(&place, ratio.to_string(), detail));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let bound = max.as_f64() / min.as_f64();
        if ratio.as_f64() > bound {
            let detail = format!("ratio {ratio} is greater than max/min = {bound:.6}");
            errors.push(FieldError::invalid(&place, ratio.to_string(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn range_defaults() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"}}]}});
        default_range(&mut range);
        assert_eq!(
            range["spec"]["limits"][0],
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1"}, "default": {"cpu": "2"},
                "defaultRequest": {"cpu": "2", "memory": "1"}})
        );
    }

    #[test]
    fn order_of_amounts() {
        let limit = json!({"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}});
        let mut errors = Vec::new();
        limit_values(&At::placed("l", &limit), &mut errors);
        assert_eq!(
            errors[0].to_string(),
            r#"l.min[cpu]: Invalid value: "3": min value 3 is greater than max value 2"#
        );
    }
}
