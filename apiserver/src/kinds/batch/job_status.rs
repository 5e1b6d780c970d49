//! Validation of a job's status: what a finished job says cannot be taken back.

use machinery::status::FieldError;

use super::indexes;
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, invalid_hidden, non_negative};
use crate::kinds::json::{at, has, int, is_set, items, text};

/// The status against itself and the old one.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.extend(non_negative(&status.get(name)));
    }
    uncounted(&status.get("uncountedTerminatedPods"), errors);
    conditions(new, errors);
    times(&status, new, errors);
    finished(&status, new, errors);
    index_lists(&status, new, errors);
    if let Some(old) = old {
        changes(&status, new, old, errors);
    }
}

fn is_true(job: &Object, kind: &str) -> bool {
    items(job, &["status", "conditions"])
        .iter()
        .any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
}

fn is_finished(job: &Object) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

fn uncounted(pods: &At<'_, '_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in pods.get(list).items() {
            if uid.text().is_empty() {
                errors.push(FieldError::invalid(&uid, "", "must not be empty"));
            } else if seen.contains(&uid.text()) {
                errors.push(FieldError::duplicate(&uid, uid.text()));
            }
            seen.push(uid.text());
        }
    }
}

/// Conditions that exclude or demand each other.
fn conditions(job: &Object, errors: &mut Errors) {
    let holds = |kind: &str| is_true(job, kind);
    let (complete, failed) = (holds("Complete"), holds("Failed"));
    let (target, criteria) = (holds("FailureTarget"), holds("SuccessCriteriaMet"));
    for (wrong, detail) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            complete && !criteria,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (criteria && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (criteria && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            errors.push(invalid_hidden(&"status.conditions", detail));
        }
    }
}

fn times(status: &At<'_, '_>, job: &Object, errors: &mut Errors) {
    let (start, completion) = (status.get("startTime"), status.get("completionTime"));
    let complete = is_true(job, "Complete");
    let mut refuse =
        |detail: &str| errors.push(FieldError::invalid(&completion, completion.value.clone(), detail));
    if completion.is_set() && !complete {
        refuse("cannot set completionTime when there is no Complete=True condition");
    }
    // RFC 3339 in UTC with whole seconds sorts as text.
    if completion.is_set() && start.is_set() && completion.text() < start.text() {
        refuse("must be equal to or after `startTime`");
    }
    if !completion.is_set() && complete {
        errors.push(FieldError::required(&completion, "completionTime is required for Complete jobs"));
    }
}

fn finished(status: &At<'_, '_>, job: &Object, errors: &mut Errors) {
    let (active, terminating) = (status.get("active"), status.get("terminating"));
    let (ready, pods) = (status.get("ready"), status.get("uncountedTerminatedPods"));
    if is_finished(job) {
        for (place, detail) in [
            (&active, "active>0 is invalid for finished job"),
            (&terminating, "terminating>0 is invalid for finished job"),
        ] {
            if place.int().unwrap_or_default() > 0 {
                errors.push(FieldError::invalid(place, place.value.clone(), detail));
            }
        }
        if !status.get("startTime").is_set() {
            errors.push(FieldError::required(
                &status.get("startTime"),
                "startTime is required for finished job",
            ));
        }
        if has(pods.value, &["succeeded"]) || has(pods.value, &["failed"]) {
            errors.push(FieldError::invalid(&pods, pods.value.clone(), "must be empty for finished job"));
        }
    }
    let count = ready.int().unwrap_or_default();
    if count > active.int().unwrap_or_default() {
        errors.push(FieldError::invalid(&ready, count, "cannot set more ready pods than active"));
    }
}

fn index_lists(status: &At<'_, '_>, job: &Object, errors: &mut Errors) {
    let (completed, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    let indexed = text(job, &["spec", "completionMode"]) == "Indexed";
    let per_index = is_set(job, &["spec", "backoffLimitPerIndex"]);
    let mut lists = Vec::new();
    if let Some(completions) = int(job, &["spec", "completions"]) {
        for (place, name, applies) in
            [(&completed, "completedIndexes", true), (&failed, "failedIndexes", per_index)]
        {
            match indexes::parse(place.text(), completions) {
                Ok(intervals) => lists.push(intervals),
                Err(why) if applies => {
                    let detail = format!("error parsing {name}: {why}");
                    errors.push(FieldError::invalid(place, place.text(), detail));
                }
                Err(_) => {}
            }
        }
    }
    if completed.has() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(&completed, completed.text(), detail));
    }
    if failed.is_set() && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(&failed, failed.text(), detail));
    }
    if let [completed, lost] = lists.as_slice()
        && let Some(index) = indexes::overlap(completed, lost)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(FieldError::invalid(&failed, failed.text(), detail));
    }
}

fn changes(status: &At<'_, '_>, new: &Object, old: &Object, errors: &mut Errors) {
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, kind) && !is_true(new, kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.push(invalid_hidden(&"status.conditions", detail));
        }
    }
    for name in ["failed", "succeeded"] {
        let (now, before) = (status.get(name), int(old, &["status", name]).unwrap_or_default());
        if now.int().unwrap_or_default() < before {
            let detail = format!("cannot decrease the {name} counter");
            errors.push(FieldError::invalid(&now, now.int().unwrap_or_default(), detail));
        }
    }
    let changed = |field: &str| {
        is_set(old, &["status", field]) && at(old, &["status", field]) != status.get(field).value
    };
    let (completion, start) = (status.get("completionTime"), status.get("startTime"));
    if completion.is_set() && changed("completionTime") {
        errors.push(FieldError::invalid(&completion, completion.value.clone(), "field is immutable"));
    }
    if changed("startTime") && at(new, &["spec", "suspend"]) != true {
        let detail = "field is immutable for unsuspended job once set";
        errors.push(FieldError::invalid(&start, start.value.clone(), detail));
    }
    if is_true(old, "SuccessCriteriaMet") && !is_true(new, "SuccessCriteriaMet") {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(invalid_hidden(&"status.conditions", detail));
    }
}
