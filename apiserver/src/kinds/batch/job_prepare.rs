//! Defaults of jobs, and the selector a new job generates for itself.

use crate::contract::{Object, RequestContext};
use crate::kinds::json::{at, entries, flag, has, is_set, set, set_if_null, text};
use crate::kinds::pod::defaults as pod;

const PARALLELISM: [&str; 2] = ["spec", "parallelism"];
const LABELS: [&str; 4] = ["spec", "template", "metadata", "labels"];
/// The label a generated selector uses.
pub const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
/// The names of the job's name and uid as labels of its pods, old and new.
pub const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
pub const UID_LABELS: [&str; 2] = ["controller-uid", UID_LABEL];

/// Defaults that depend on other fields.
pub fn default(job: &mut Object) {
    spec(job, &["spec"]);
    let labels = at(job, &LABELS).clone();
    if entries(&labels, &[]).next().is_some() && !has(job, &["metadata", "labels"]) {
        set(job, &["metadata", "labels"], labels);
    }
    set_if_null(job, &["spec", "manualSelector"], false);
    set_if_null(job, &["spec", "completionMode"], "NonIndexed");
    set_if_null(job, &["spec", "suspend"], false);
    if !is_set(job, &["spec", "completions"]) && !is_set(job, &PARALLELISM) {
        set(job, &["spec", "completions"], 1);
    }
    set_if_null(job, &PARALLELISM, 1);
    let per_index = is_set(job, &["spec", "backoffLimitPerIndex"]);
    set_if_null(job, &["spec", "backoffLimit"], if per_index { i64::from(i32::MAX) } else { 6 });
    let fails_pods = is_set(job, &["spec", "podFailurePolicy"]);
    let replace = if fails_pods { "Failed" } else { "TerminatingOrFailed" };
    set_if_null(job, &["spec", "podReplacementPolicy"], replace);
}

/// Defaults of the pod template of a JobSpec at the path.
pub fn spec(object: &mut Object, path: &[&str]) {
    let template: Vec<&str> = path.iter().copied().chain(["template", "spec"]).collect();
    pod::template(object, &template);
}

/// Labels the pods with name and uid, and selects by the uid.
pub fn create(_: &RequestContext, job: &mut Object) {
    if flag(job, &["spec", "manualSelector"]) == Some(true) {
        return;
    }
    let name = text(job, &["metadata", "name"]).to_owned();
    let uid = text(job, &["metadata", "uid"]).to_owned();
    for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid.clone())] {
        for key in keys {
            let path: Vec<&str> = LABELS.into_iter().chain([key]).collect();
            set_if_null(job, &path, value.clone());
        }
    }
    set_if_null(job, &["spec", "selector", "matchLabels", UID_LABEL], uid);
    // A job without labels takes its template's, which just got some.
    if !has(job, &["metadata", "labels"]) {
        let labels = at(job, &LABELS).clone();
        set(job, &["metadata", "labels"], labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults() {
        let mut job = json!({"metadata": {}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        default(&mut job);
        assert_eq!(
            job,
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}},
                "manualSelector": false, "completions": 1, "parallelism": 1, "backoffLimit": 6,
                "podReplacementPolicy": "TerminatingOrFailed", "completionMode": "NonIndexed", "suspend": false}})
        );
        let mut job = json!({"spec": {"parallelism": 3, "backoffLimitPerIndex": 1, "podFailurePolicy": {}}});
        default(&mut job);
        assert_eq!(job["spec"]["backoffLimit"], i64::from(i32::MAX));
        assert_eq!(job["spec"]["podReplacementPolicy"], "Failed");
        assert!(job["spec"].get("completions").is_none());
    }
}
