//! Which objects a quota's scopes select. Pure.

use serde_json::Value;

use super::usage::{Measure, has_deadline};
use crate::contract::Object;
use crate::kinds::json::{has, is_set, items, text, texts};
use crate::kinds::pod::resources::qos_class;

/// Whether every scope of the quota selects the object.
pub fn select(quota: &Object, measure: Measure<'_>, object: &Object) -> bool {
    let simple =
        texts(quota, &["spec", "scopes"]).all(|scope| selects(scope, "Exists", &[], measure, object));
    let expressions = items(quota, &["spec", "scopeSelector", "matchExpressions"]);
    simple
        && expressions.iter().all(|expression| {
            let values: Vec<&str> = texts(expression, &["values"]).collect();
            let operator = text(expression, &["operator"]);
            selects(text(expression, &["scopeName"]), operator, &values, measure, object)
        })
}

fn selects(scope: &str, operator: &str, values: &[&str], measure: Measure<'_>, object: &Object) -> bool {
    match (measure, scope) {
        (Measure::Pods, "Terminating") => has_deadline(object),
        (Measure::Pods, "NotTerminating") => !has_deadline(object),
        (Measure::Pods, "BestEffort") => qos_class(object) == "BestEffort",
        (Measure::Pods, "NotBestEffort") => qos_class(object) != "BestEffort",
        (Measure::Pods, "CrossNamespacePodAffinity") => crosses_namespaces(object),
        (Measure::Pods, "PriorityClass") => {
            let class = text(object, &["spec", "priorityClassName"]);
            among(&[class], operator, values)
        }
        (Measure::Claims, "VolumeAttributesClass") => {
            let paths: [&[&str]; 3] = [
                &["spec", "volumeAttributesClassName"],
                &["status", "currentVolumeAttributesClassName"],
                &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
            ];
            among(&paths.map(|path| text(object, path)), operator, values)
        }
        _ => false,
    }
}

/// Whether a label with any of the (non-empty) names would match; without names, whether its absence would.
fn among(names: &[&str], operator: &str, values: &[&str]) -> bool {
    let mut given = names.iter().filter(|name| !name.is_empty()).peekable();
    if given.peek().is_none() {
        return matches!(operator, "NotIn" | "DoesNotExist");
    }
    match operator {
        "Exists" => true,
        "In" => given.any(|name| values.contains(name)),
        "NotIn" => given.any(|name| !values.contains(name)),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Object) -> bool {
    let crosses = |term: &Value| has(term, &["namespaces"]) || is_set(term, &["namespaceSelector"]);
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let of = |list| items(pod, &["spec", "affinity", kind, list]);
        of("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || of("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(crate::kinds::json::at(weighted, &["podAffinityTerm"])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scopes() {
        let check = |spec: Value, pod: Value, expected: bool| {
            assert_eq!(select(&json!({"spec": spec}), Measure::Pods, &pod), expected, "{spec} {pod}");
        };
        let plain = json!({"spec": {"containers": [{}]}});
        check(json!({}), plain.clone(), true);
        check(json!({"scopes": ["BestEffort", "NotTerminating"]}), plain.clone(), true);
        check(json!({"scopes": ["Terminating"]}), plain.clone(), false);
        let class = |operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
        let high = json!({"spec": {"priorityClassName": "high"}});
        check(class("In", json!(["high"])), high.clone(), true);
        check(class("NotIn", json!(["high"])), high.clone(), false);
        check(class("Exists", json!([])), high, true);
        check(class("DoesNotExist", json!([])), plain.clone(), true);
        check(class("Exists", json!([])), plain, false);
    }
}
