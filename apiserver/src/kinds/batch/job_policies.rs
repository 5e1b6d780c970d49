//! Pod failure, success and replacement policies of jobs.

use machinery::status::FieldError;

use super::indexes;
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, invalid_hidden};
use crate::kinds::json::{items, text};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const INDEXES_TEXT_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// All three policies of a JobSpec.
pub fn check(spec: &At<'_, '_>, errors: &mut Errors) {
    let failure = spec.get("podFailurePolicy");
    if failure.is_set() {
        pod_failure(spec, &failure.get("rules"), errors);
    }
    let success = spec.get("successPolicy");
    if success.is_set() && spec.get("completionMode").text() != "Indexed" {
        let detail = "requires indexed completion mode";
        errors.push(FieldError::invalid(&success, success.value.clone(), detail));
    } else if success.is_set() {
        success_rules(spec, &success.get("rules"), errors);
    }
    let replacement = spec.get("podReplacementPolicy");
    let supported: &[&str] = if failure.is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if replacement.is_set() && !supported.contains(&replacement.text()) {
        errors.push(FieldError::not_supported(&replacement, replacement.text(), supported));
    }
}

fn supported_or_missing(at: &At<'_, '_>, values: &[&str], errors: &mut Errors) {
    if !at.has() {
        let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        errors.push(FieldError::required(at, format!("valid values: [{}]", quoted.join(" "))));
    } else if !values.contains(&at.text()) {
        errors.push(FieldError::not_supported(at, at.text(), values));
    }
}

fn pod_failure(spec: &At<'_, '_>, rules: &At<'_, '_>, errors: &mut Errors) {
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(rules, rules.len(), RULES_MAX));
    }
    let pod = spec.get("template").value;
    let names: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(pod, &["spec", list]))
        .map(|container| text(container, &["name"]))
        .collect();
    for rule in rules.items() {
        let action = rule.get("action");
        supported_or_missing(&action, &ACTIONS, errors);
        if action.text() == "FailIndex" && !spec.get("backoffLimitPerIndex").is_set() {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&action, action.text(), detail));
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(&codes, &names, errors);
        }
        pod_conditions(&conditions, errors);
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => errors.push(invalid_hidden(
                &rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            (false, false) => errors
                .push(invalid_hidden(&rule, "specifying one of OnExitCodes and OnPodConditions is required")),
            _ => {}
        }
    }
}

fn exit_codes(codes: &At<'_, '_>, names: &[&str], errors: &mut Errors) {
    let (operator, container, values) =
        (codes.get("operator"), codes.get("containerName"), codes.get("values"));
    supported_or_missing(&operator, &OPERATORS, errors);
    if container.is_set() && !names.contains(&container.text()) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&container, container.text(), detail));
    }
    if values.is_empty() {
        errors.push(FieldError::invalid(&values, values.value.clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&values, values.len(), EXIT_CODES_MAX));
    }
    let mut seen: Vec<i64> = Vec::new();
    for value in values.items() {
        let code = value.int().unwrap_or_default();
        if operator.text() == "In" && code == 0 {
            errors.push(FieldError::invalid(&value, code, "must not be 0 for the In operator"));
        }
        if seen.contains(&code) {
            errors.push(FieldError::duplicate(&value, code));
        }
        seen.push(code);
    }
    if !seen.is_sorted() {
        errors.push(FieldError::invalid(&values, values.value.clone(), "must be ordered"));
    }
}

fn pod_conditions(conditions: &At<'_, '_>, errors: &mut Errors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(conditions, conditions.len(), CONDITIONS_MAX));
    }
    for pattern in conditions.items() {
        errors.extend(checks::named("qualified", &pattern.get("type")));
        supported_or_missing(&pattern.get("status"), &STATUSES, errors);
    }
}

fn success_rules(spec: &At<'_, '_>, rules: &At<'_, '_>, errors: &mut Errors) {
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(rules, detail));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(rules, rules.len(), RULES_MAX));
    }
    let completions = spec.get("completions").int().unwrap_or_default();
    for rule in rules.items() {
        success_rule(&rule, completions, errors);
    }
}

fn success_rule(rule: &At<'_, '_>, completions: i64, errors: &mut Errors) {
    let (count, list) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !count.is_set() && !list.is_set() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(rule, detail));
    }
    let mut total = 0;
    if list.is_set() {
        if list.text().len() > INDEXES_TEXT_MAX {
            errors.push(FieldError::too_long(&list, "", INDEXES_TEXT_MAX));
        }
        match indexes::parse(list.text(), completions) {
            Ok(intervals) => total = indexes::count(&intervals),
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(&list, list.text(), detail));
            }
        }
    }
    errors.extend(checks::non_negative(&count));
    let Some(wanted) = count.int() else { return };
    let mut bound = |max: i64, what: &str| {
        if wanted > max {
            let detail = format!("must be less than or equal to {max} (the number of {what})");
            errors.push(FieldError::invalid(&count, wanted, detail));
        }
    };
    bound(completions, "specified completions");
    if list.is_set() {
        bound(total, "indexes in the specified succeededIndexes field");
    }
}
