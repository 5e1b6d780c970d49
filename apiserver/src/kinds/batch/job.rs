//! Validation of jobs.

use machinery::selector::Labels;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::{job_policies, job_prepare, job_update};
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors};
use crate::kinds::json::{at, flag, has, text};
use crate::kinds::pod::validate;

const PARALLELISM_MAX_INDEXED: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i64 = 100_000;
const PARALLELISM_MAX_MANY: i64 = 10_000;
const FAILED_INDEXES_MAX_MANY: i64 = 10_000;
const MANAGED_BY_MAX: usize = 63;

/// The whole object.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let job_spec = root.get("spec");
    if old.is_none() {
        generated_selector(new, errors);
    }
    spec(&job_spec, errors);
    selector(&job_spec, errors);
    if let Some(old) = old {
        job_update::check(new, old, errors);
        return;
    }
    let completions = job_spec.get("completions").int().unwrap_or_default();
    if job_spec.get("completionMode").text() == "Indexed" && completions > 0 {
        let host = format!("{}-{}", text(new, &["metadata", "name"]), completions - 1);
        if !machinery::names::dns1123_label(&host).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid(&"metadata.name", text(new, &["metadata", "name"]), detail));
        }
    }
}

/// A selector the server made must be the one it makes.
fn generated_selector(job: &Object, errors: &mut Errors) {
    if flag(job, &["spec", "manualSelector"]) == Some(true) || !has(job, &["spec", "selector"]) {
        return;
    }
    let labels = at(job, &["spec", "template", "metadata", "labels"]);
    let (name, uid) = (text(job, &["metadata", "name"]), text(job, &["metadata", "uid"]));
    let mut expected = json!({});
    let wanted = [(job_prepare::UID_LABELS, uid), (job_prepare::NAME_LABELS, name)];
    for (key, value) in wanted.into_iter().flat_map(|(keys, value)| keys.map(|key| (key, value))) {
        expected[key] = json!(value);
        let path = format!("spec.template.metadata.labels[{key}]");
        match labels.get(key).and_then(Value::as_str) {
            None => errors.push(FieldError::required(&path, format!("must be '{value}'"))),
            Some(own) if own != value => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::invalid(&"spec.template.metadata.labels", labels.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let selector = at(job, &["spec", "selector"]);
    if Labels::from_value(selector).is_ok_and(|parsed| !parsed.matches(&expected)) {
        errors.push(FieldError::invalid(&"spec.selector", selector.clone(), "`selector` not auto-generated"));
    }
}

fn selector(spec: &At<'_, '_>, errors: &mut Errors) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        errors.push(FieldError::required(&selector, ""));
    }
    errors.extend(checks::label_selector(&selector));
    let labels = at(spec.value, &["template", "metadata", "labels"]);
    if Labels::from_value(selector.value).is_ok_and(|parsed| !parsed.matches(labels)) {
        let path = "spec.template.metadata.labels";
        errors.push(FieldError::invalid(
            &path,
            labels.clone(),
            "`selector` does not match template `labels`",
        ));
    }
}

/// What holds for jobs and job templates alike.
pub fn spec(spec: &At<'_, '_>, errors: &mut Errors) {
    let managed_by = spec.get("managedBy");
    if managed_by.is_set() {
        errors.extend(checks::domain_prefixed_path(&managed_by));
        if managed_by.text().len() > MANAGED_BY_MAX {
            errors.push(FieldError::too_long(&managed_by, "", MANAGED_BY_MAX));
        }
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        let place = spec.get("backoffLimitPerIndex");
        errors.push(FieldError::required(&place, "when maxFailedIndexes is specified"));
    }
    match spec.get("completionMode").text() {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                let place = spec.get(name);
                if place.is_set() {
                    let detail = "requires indexed completion mode";
                    errors.push(FieldError::invalid(&place, place.value.clone(), detail));
                }
            }
        }
        _ => {
            let mode = spec.get("completionMode");
            errors.push(FieldError::not_supported(&mode, mode.text(), &["NonIndexed", "Indexed"]));
        }
    }
    job_policies::check(spec, errors);
    validate::template(&spec.get("template"), errors);
    restart_policy(spec, errors);
}

fn indexed(spec: &At<'_, '_>, errors: &mut Errors) {
    let of = |name: &str| spec.get(name).int();
    let (completions, parallelism, failed) = (of("completions"), of("parallelism"), of("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(FieldError::required(&spec.get("completions"), "when completion mode is Indexed"));
    }
    let mut too_large = |name: &str, value: Option<i64>, max: i64, suffix: &str| {
        if let Some(value) = value.filter(|value| *value > max) {
            let detail = format!("must be less than or equal to {max}{suffix}");
            errors.push(FieldError::invalid(&spec.get(name), value, detail));
        }
    };
    too_large("parallelism", parallelism, PARALLELISM_MAX_INDEXED, " when completion mode is Indexed");
    too_large("maxFailedIndexes", failed, FAILED_INDEXES_MAX, "");
    let many = completions.is_some_and(|count| count > COMPLETIONS_SOFT_LIMIT)
        && of("backoffLimitPerIndex").is_some();
    if many {
        let suffix = format!(
            " when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
        );
        too_large("parallelism", parallelism, PARALLELISM_MAX_MANY, &suffix);
        too_large("maxFailedIndexes", failed, FAILED_INDEXES_MAX_MANY, &suffix);
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let place = spec.get("maxFailedIndexes");
        errors.push(FieldError::invalid(&place, failed, "must be less than or equal to completions"));
    }
    if many && failed.is_none() {
        let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
        errors.push(FieldError::required(&spec.get("maxFailedIndexes"), detail));
    }
}

fn restart_policy(spec: &At<'_, '_>, errors: &mut Errors) {
    let template = spec.get("template");
    let pod = template.get("spec");
    let policy = pod.get("restartPolicy");
    match policy.text() {
        "" | "Always" => {
            errors.push(FieldError::required(&policy, "valid values: \"OnFailure\", \"Never\""));
        }
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(&policy, policy.text(), detail));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&policy, other, &["OnFailure", "Never"])),
    }
}
