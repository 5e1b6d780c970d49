//! What a job's spec and one of its pods say.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::meta::{annotation, is_terminating};
use crate::pods;
use crate::runtime::{ReconcileError, clock};
use crate::selector::Selector;

/// Annotation and label of a pod: its completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation of a pod: failures of its index so far.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation of a pod: failures of its index that the policy ignored.
pub const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The manager that is us.
const MANAGER: &str = "kubernetes.io/job-controller";
/// First pause after a failed pod, and the longest (upstream's).
const BACKOFF_BASE: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

fn spec(job: &Job) -> Option<&JobSpec> {
    job.spec.as_ref()
}

/// Which pods may be the job's.
pub fn selector(job: &Job) -> Result<Selector, ReconcileError> {
    let selector = spec(job).and_then(|spec| spec.selector.as_ref());
    Selector::of(selector.ok_or_else(|| ReconcileError::invalid("spec.selector", "missing"))?)
}

/// Whether someone else works on the job.
pub fn is_managed_elsewhere(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.managed_by.as_deref()).is_some_and(|manager| manager != MANAGER)
}

/// One of the job's conditions, if it is true.
pub fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the job is over.
pub fn is_finished(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

/// Whether the completion mode is one this version knows.
pub fn has_known_mode(job: &Job) -> bool {
    let mode = spec(job).and_then(|spec| spec.completion_mode.as_deref());
    matches!(mode, None | Some("NonIndexed" | "Indexed"))
}

/// Whether pods have indexes.
pub fn is_indexed(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

/// Whether the job is suspended.
pub fn is_suspended(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.suspend).unwrap_or(false)
}

/// Completions asked for; without any, one success ends the job.
pub fn completions(job: &Job) -> Option<i32> {
    spec(job).and_then(|spec| spec.completions)
}

/// Pods at a time.
pub fn parallelism(job: &Job) -> i32 {
    spec(job).and_then(|spec| spec.parallelism).unwrap_or(1)
}

/// Failed pods that are forgiven.
pub fn backoff_limit(job: &Job) -> i32 {
    spec(job).and_then(|spec| spec.backoff_limit).unwrap_or(6)
}

/// Failed pods per index that are forgiven.
pub fn backoff_limit_per_index(job: &Job) -> Option<i32> {
    spec(job).and_then(|spec| spec.backoff_limit_per_index)
}

/// Whether a pod is replaced only once it has really ended.
pub fn replaces_only_failed(job: &Job) -> bool {
    let spec = spec(job);
    spec.and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
        || spec.is_some_and(|spec| spec.pod_failure_policy.is_some())
}

/// Whether a pod counts as failed. One being deleted does too, unless only ended pods are replaced.
pub fn is_failed(pod: &Pod, job: &Job) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_only_failed(job) && is_terminating(pod) && phase != "Succeeded")
}

/// A pod's completion index, if it is one of the job's.
pub fn index(pod: &Pod, job: &Job) -> Option<u32> {
    let index: u32 = raw_index(pod)?;
    let below = completions(job).is_none_or(|count| i64::from(index) < i64::from(count));
    below.then_some(index)
}

/// A pod's completion index as annotated.
pub fn raw_index(pod: &Pod) -> Option<u32> {
    annotation(pod, INDEX)?.parse().ok()
}

/// Failures of a pod's index up to that pod: counted, ignored.
pub fn index_failures(pod: &Pod) -> (i32, i32) {
    let count = |key| annotation(pod, key).and_then(|text| text.parse().ok()).unwrap_or(0);
    (count(INDEX_FAILURES), count(INDEX_IGNORED))
}

/// When a pod ended: its last container's end, else when it stopped being ready, else when it was deleted, else when
/// it was made.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0);
    let not_ready = || {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        Some(ready.last_transition_time.as_ref()?.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref()?.0.checked_sub(grace).ok()
    };
    containers_finished_at(pod).or_else(not_ready).or_else(deleted).unwrap_or(created)
}

fn containers_finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ended =
        |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let ends: Option<Vec<Timestamp>> = status.container_statuses.iter().flatten().map(ended).collect();
    ends?.into_iter().max()
}

/// How long a replacement must still wait after `failures` failures, the last at `last`.
pub fn backoff_left(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    // 2^6 times ten seconds is past the longest pause already.
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(6);
    let pause = BACKOFF_BASE.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    clock::until(clock::add(last, pause), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_minutes() {
        let now = crate::testing::now();
        for (failures, secs) in [(0, 0), (1, 10), (2, 20), (4, 80), (7, 600), (99, 600)] {
            assert_eq!(backoff_left(failures, now, now), Duration::from_secs(secs), "{failures} failures");
        }
    }
}
