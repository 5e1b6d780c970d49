//! What steers where a pod runs: affinity, tolerations, spreading, gates.

use machinery::names;
use machinery::status::FieldError;
use serde_json::Value;

use super::env::qualified;
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors};
use crate::kinds::json::{entries, items, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// All of a PodSpec.
pub fn check(spec: &At<'_, '_>, errors: &mut Errors) {
    let affinity = spec.get("affinity");
    node_affinity(&affinity.get("nodeAffinity"), errors);
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = affinity.get(kind);
        terms.get(REQUIRED).items().for_each(|term| pod_term(&term, errors));
        terms.get(PREFERRED).items().for_each(|weighted| pod_term(&weighted.get("podAffinityTerm"), errors));
    }
    tolerations(&spec.get("tolerations"), errors);
    spread(&spec.get("topologySpreadConstraints"), errors);
    let mut seen = Vec::new();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name").text();
        errors.extend(qualified(&gate.with(&Value::from(name)), name));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(&gate, name));
        }
        seen.push(name);
    }
}

fn node_affinity(affinity: &At<'_, '_>, errors: &mut Errors) {
    for term in affinity.get(REQUIRED).get("nodeSelectorTerms").items() {
        node_term(&term, true, errors);
    }
    for weighted in affinity.get(PREFERRED).items() {
        node_term(&weighted.get("preference"), false, errors);
    }
}

/// A node selector term; `strict` also checks the values as label values.
pub fn node_term(term: &At<'_, '_>, strict: bool, errors: &mut Errors) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(&requirement, strict, errors);
    }
    for requirement in term.get("matchFields").items() {
        field_requirement(&requirement, errors);
    }
}

fn node_requirement(at: &At<'_, '_>, strict: bool, errors: &mut Errors) {
    let (key, operator, values) = (at.get("key"), at.get("operator"), at.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            errors
                .push(FieldError::required(&values, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&operator, other, "not a valid selector operator")),
    }
    errors.extend(checks::invalid(&key, names::qualified_name(key.text())));
    if strict {
        for value in values.items() {
            errors.extend(checks::invalid(&value, names::label_value(value.text())));
        }
    }
}

fn field_requirement(at: &At<'_, '_>, errors: &mut Errors) {
    let (key, operator, values) = (at.get("key"), at.get("operator"), at.get("values"));
    match operator.text() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(&values, detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(&operator, other, "not a valid selector operator")),
    }
    if key.text() != "metadata.name" {
        errors.push(FieldError::invalid(&key, key.text(), "not a valid field selector key"));
        return;
    }
    for value in values.items() {
        errors.extend(checks::invalid(&value, names::dns1123_subdomain(value.text())));
    }
}

fn pod_term(term: &At<'_, '_>, errors: &mut Errors) {
    for name in term.get("namespaces").items() {
        let texts = names::dns1123_label(name.text());
        errors.extend(
            texts.into_iter().map(|text| FieldError::invalid(&term.get("namespace"), name.text(), text)),
        );
    }
    label_keys(term, "matchLabelKeys", errors);
    label_keys(term, "mismatchLabelKeys", errors);
    conflicts(term, errors);
}

fn label_keys(term: &At<'_, '_>, field: &str, errors: &mut Errors) {
    let keys = term.get(field);
    if keys.is_empty() {
        return;
    }
    if !term.get("labelSelector").is_set() {
        let detail = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(&keys, detail));
        return;
    }
    for key in keys.items() {
        errors.extend(checks::invalid(&key, names::qualified_name(key.text())));
    }
}

/// A key may be named once: by its list or by people's own selector, and not in both lists.
fn conflicts(term: &At<'_, '_>, errors: &mut Errors) {
    let selector = term.get("labelSelector");
    let (keys, others) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    let mut known: Vec<&str> = entries(selector.value, &["matchLabels"]).map(|(key, _)| key).collect();
    for expression in items(selector.value, &["matchExpressions"]) {
        let key = text(expression, &["key"]);
        let index = keys.items().position(|own| own.text() == key);
        if let Some(index) = index.filter(|_| known.contains(&key)) {
            let place = format!("{term}[{index}]");
            errors.push(FieldError::invalid(&place, key, "exists in both matchLabelKeys and labelSelector"));
        }
        known.push(key);
    }
    for key in keys.items().filter(|key| others.items().any(|other| other.text() == key.text())) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(&key, key.text(), detail));
    }
}

/// Tolerations, of pods and runtime classes.
pub fn tolerations(list: &At<'_, '_>, errors: &mut Errors) {
    for toleration in list.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        if key.has() {
            errors.extend(checks::invalid(&key, names::qualified_name(key.text())));
        } else if operator.text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&operator, operator.text(), detail));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&effect, effect.text(), detail));
        }
        operator_and_value(&operator, &value, errors);
        if effect.has() && !EFFECTS.contains(&effect.text()) {
            errors.push(FieldError::not_supported(&effect, effect.text(), &EFFECTS));
        }
    }
}

fn operator_and_value(operator: &At<'_, '_>, value: &At<'_, '_>, errors: &mut Errors) {
    match operator.text() {
        "" | "Equal" => {
            let texts = names::label_value(value.text());
            if !texts.is_empty() {
                errors.push(FieldError::invalid(operator, value.text(), texts.join(";")));
            }
        }
        "Exists" => {
            if value.has() {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(operator, value.text(), detail));
            }
        }
        "Lt" | "Gt" => {
            let supported = ["Equal", "Exists", "Lt", "Gt"];
            errors.push(FieldError::not_supported(operator, operator.text(), &supported));
        }
        other => errors.push(FieldError::not_supported(operator, other, &["Equal", "Exists"])),
    }
}

fn spread(list: &At<'_, '_>, errors: &mut Errors) {
    let constraints: Vec<(&str, &str)> =
        list.items().map(|c| (c.get("topologyKey").text(), c.get("whenUnsatisfiable").text())).collect();
    for (index, constraint) in list.items().enumerate() {
        let (key, action) = constraints[index];
        if constraints[index + 1..].contains(&(key, action)) {
            let place = format!("{constraint}.{{topologyKey, whenUnsatisfiable}}");
            errors.push(FieldError::duplicate(&place, format!("{{{key}, {action}}}")));
        }
        let domains = constraint.get("minDomains");
        if domains.is_set() && action != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(&domains, domains.value.clone(), detail));
        }
        label_keys(&constraint, "matchLabelKeys", errors);
        conflicts(&constraint, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_tolerations(toleration: Value, expected: &[&str]) {
        let list = json!([toleration]);
        let mut errors = Vec::new();
        tolerations(&At::placed("t", &list), &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn toleration_rules() {
        check_tolerations(json!({"operator": "Exists"}), &[]);
        check_tolerations(json!({"key": "a", "value": "b"}), &[]);
        check_tolerations(
            json!({"operator": "Equal"}),
            &[
                r#"t[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
            ],
        );
        check_tolerations(
            json!({"key": "a", "operator": "Exists", "value": "b", "tolerationSeconds": 1}),
            &[
                r#"t[0].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set"#,
                r#"t[0].operator: Invalid value: "b": value must be empty when `operator` is 'Exists'"#,
            ],
        );
    }
}
