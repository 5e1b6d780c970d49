//! The pod's whole API status from what is known now and what was reported before.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{OWNED, any_regular_started, conditions};
use super::container_status::{StatusInputs, Statuses, container_statuses, lost};
use super::phase::{Phase, phase};
use super::resize::Standing;
use super::{qos, spec};

/// The reason of pods that had to go because the machine needs what they use.
pub const EVICTED: &str = "Evicted";
/// The condition that tells why a pod was made to end.
const DISRUPTION: &str = "DisruptionTarget";

/// A failure that ends the pod whatever its containers say: reason and message of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `Evicted`, `DeadlineExceeded`, `NodeAffinity`, `OutOfcpu`…
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

/// Computes the status. `host_ips` are the machine's addresses, primary first.
pub fn pod_status(
    inputs: &StatusInputs<'_>,
    failure: Option<&Failure>,
    host_ips: &[String],
    now: Timestamp,
) -> PodStatus {
    let statuses = container_statuses(inputs);
    let phase = settled_phase(inputs, &statuses, failure);
    let api = spec::status(inputs.pod);
    let mut conditions = conditions(inputs.pod, inputs.observed, &statuses, phase, inputs.old, now);
    let foreign = api.conditions.iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str()));
    let mut all: Vec<_> = foreign.cloned().collect();
    all.append(&mut conditions);
    note_disruption(&mut all, failure, inputs.old, now);
    let resizes =
        inputs.resizes.iter().map(|standing| resize_condition(inputs.pod, standing, inputs.old, now));
    all.extend(resizes);
    let mut status = PodStatus {
        phase: Some(phase.as_str().to_owned()),
        conditions: Some(all),
        init_container_statuses: non_empty(statuses.init),
        container_statuses: Some(statuses.regular),
        ephemeral_container_statuses: non_empty(statuses.ephemeral),
        qos_class: Some(qos::class(inputs.pod).as_str().to_owned()),
        start_time: inputs.old.start_time.clone().or(Some(Time(now))),
        observed_generation: inputs.pod.metadata.generation,
        resource_claim_statuses: api.resource_claim_statuses.clone(),
        ..Default::default()
    };
    let same_phase = inputs.old.phase.as_deref() == Some(phase.as_str());
    match failure {
        Some(failure) => {
            status.reason = Some(failure.reason.clone());
            status.message = Some(failure.message.clone());
        }
        None if same_phase => {
            status.reason.clone_from(&inputs.old.reason);
            status.message.clone_from(&inputs.old.message);
        }
        None => {}
    }
    set_addresses(&mut status, inputs, host_ips);
    set_pod_level(&mut status, inputs);
    status
}

/// What the pod as a whole has been given and what it was promised, where its spec says something about that. As long as
/// a running container has the old, the old counts.
fn set_pod_level(status: &mut PodStatus, inputs: &StatusInputs<'_>) {
    let Some(promised) = inputs.pod.spec.as_ref().and_then(|s| s.resources.as_ref()) else { return };
    let old = inputs.given.values().map(|share| &share.pod).find(|level| *level != promised);
    status.allocated_resources.clone_from(&promised.requests);
    status.resources = Some(old.unwrap_or(promised).clone());
}

/// An evicted pod says so in a condition too, which Jobs look at.
fn note_disruption(all: &mut Vec<PodCondition>, failure: Option<&Failure>, old: &PodStatus, now: Timestamp) {
    let Some(failure) = failure.filter(|f| f.reason == EVICTED) else { return };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == DISRUPTION).cloned();
    all.retain(|c| c.type_ != DISRUPTION);
    all.push(before.unwrap_or_else(|| PodCondition {
        type_: DISRUPTION.to_owned(),
        status: "True".to_owned(),
        reason: Some("TerminationByKubelet".to_owned()),
        message: Some(failure.message.clone()),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    }));
}

/// The condition that shows a change of resources which is not done.
fn resize_condition(pod: &Pod, standing: &Standing, old: &PodStatus, now: Timestamp) -> PodCondition {
    let (kind, reason, message) = match standing {
        Standing::Pending(reason, message) => ("PodResizePending", Some(*reason), Some(message.clone())),
        Standing::InProgress(error) => {
            ("PodResizeInProgress", error.as_ref().map(|_| "Error"), error.clone())
        }
    };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind);
    PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.map(str::to_owned),
        message,
        observed_generation: pod.metadata.generation,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        last_probe_time: None,
    }
}

/// The status of a pod this machine refuses: nothing of it ever ran.
pub fn rejected_status(pod: &Pod, failure: &Failure, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some(Phase::Failed.as_str().to_owned()),
        reason: Some(failure.reason.clone()),
        message: Some(format!("Pod was rejected: {}", failure.message)),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        start_time: Some(Time(now)),
        observed_generation: pod.metadata.generation,
        conditions: spec::status(pod).conditions.clone(),
        ..Default::default()
    }
}

/// The last word on a deleted pod whose containers never ended by themselves: they are reported as lost and
/// the pod as failed, so that nothing waits for it.
pub fn finalize(status: &mut PodStatus) {
    if status.phase.as_deref().and_then(Phase::parse).is_some_and(Phase::is_terminal) {
        return;
    }
    status.phase = Some(Phase::Failed.as_str().to_owned());
    for container in status.container_statuses.iter_mut().flatten() {
        if container.state.as_ref().is_none_or(|s| s.terminated.is_none()) {
            container.state = Some(lost());
            container.ready = false;
            container.started = Some(false);
        }
    }
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A terminal phase once reported is never left.
fn settled_phase(inputs: &StatusInputs<'_>, statuses: &Statuses, failure: Option<&Failure>) -> Phase {
    let reported = |s: Option<&str>| s.and_then(Phase::parse).filter(|p| p.is_terminal());
    if let Some(phase) = reported(spec::status(inputs.pod).phase.as_deref()) {
        return phase;
    }
    if let Some(phase) = reported(inputs.old.phase.as_deref()) {
        return phase;
    }
    if failure.is_some() {
        return Phase::Failed;
    }
    // A pod that still has processes is not over, whatever its stopped containers say.
    let computed = phase(inputs.pod, statuses, inputs.ending, any_regular_started(statuses));
    let busy = inputs.observed.alive().next().is_some();
    if computed.is_terminal() && inputs.ending && busy { Phase::Running } else { computed }
}

fn set_addresses(status: &mut PodStatus, inputs: &StatusInputs<'_>, host_ips: &[String]) {
    status.host_ip = host_ips.first().cloned();
    status.host_ips = Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let sandbox = inputs.observed.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
    let ips = if spec::is_host_network(inputs.pod) { host_ips.to_vec() } else { sandbox };
    if ips.is_empty() {
        status.pod_ip.clone_from(&inputs.old.pod_ip);
        status.pod_ips.clone_from(&inputs.old.pod_ips);
    } else {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
}
