//! Facts about pods that many controllers share: active, ready, available, and what a template becomes.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{is_terminating, owner_reference};
use crate::runtime::{Object, clock};

/// The pod's phase; empty before the first status.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// Succeeded or failed for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// One of the pod's conditions.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Whether the Ready condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod has been ready for `min_ready_secs`.
pub fn is_available(pod: &Pod, min_ready_secs: i32, now: Timestamp) -> bool {
    is_ready(pod) && available_in(pod, min_ready_secs, now).is_some_and(|left| left.is_zero())
}

/// How long until a ready pod counts as available; `None` when it is not ready.
pub fn available_in(pod: &Pod, min_ready_secs: i32, now: Timestamp) -> Option<Duration> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    let needed = Duration::from_secs(u64::try_from(min_ready_secs).unwrap_or(0));
    if needed.is_zero() {
        return Some(Duration::ZERO);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    Some(clock::until(clock::add(since, needed), now))
}

/// The node the pod is bound to.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

/// The most restarts of any container.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// A pod made from a template, owned by `owner`, its name to be generated from `prefix`.
pub fn from_template<P: Object>(template: &PodTemplateSpec, owner: &P, prefix: &str) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix.to_string()),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The prefix of generated pod names: the owner's name and a dash, unless that is too long to be a valid prefix.
pub fn name_prefix(owner: &str) -> String {
    // A generated name keeps 5 characters of 63 for its suffix; upstream checks the prefix as a DNS subdomain of 253.
    if owner.len() < 252 { format!("{owner}-") } else { owner.to_string() }
}

/// What decides which pods go first when there are too many (upstream's ActivePodsWithRanks): unassigned before
/// assigned, pending before running, not ready before ready, lower deletion cost, more crowded nodes, younger ready
/// times, more restarts, younger. Pods that sort first are deleted first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeletionOrder {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: std::cmp::Reverse<usize>,
    ready_for: i64,
    restarts: std::cmp::Reverse<i32>,
    age: i64,
    uid: String,
}

/// The annotation that says what deleting a pod costs.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The place of a pod in the order of deletion; `crowd` is how many related pods share its node. Times of readiness
/// and age count in powers of two, so that pods of about the same age are told apart by nothing but chance.
pub fn deletion_order(pod: &Pod, crowd: usize, now: Timestamp) -> DeletionOrder {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True");
    let cost = crate::meta::annotation(pod, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    DeletionOrder {
        assigned: !node_name(pod).is_empty(),
        phase: match phase(pod) {
            "Pending" | "" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        ready: ready.is_some(),
        cost,
        crowd: std::cmp::Reverse(crowd),
        ready_for: ready
            .and_then(|ready| ready.last_transition_time.as_ref())
            .map_or(0, |at| log_age(at.0, now)),
        restarts: std::cmp::Reverse(restarts(pod)),
        age: pod.metadata.creation_timestamp.as_ref().map_or(0, |at| log_age(at.0, now)),
        uid: crate::meta::uid(pod).to_string(),
    }
}

fn log_age(at: Timestamp, now: Timestamp) -> i64 {
    let secs = clock::since(at, now).as_secs();
    if secs == 0 { 0 } else { i64::from(secs.ilog2()) + 1 }
}
