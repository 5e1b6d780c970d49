//! The status of a deployment: counts, and the conditions Available, Progressing and ReplicaFailure with upstream's
//! reasons and texts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::facts;
use super::rollout::Rollout;
use super::sets::Set;
use crate::meta::name;
use crate::runtime::{Plan, clock};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
const COMPLETE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const CREATE_ERROR: &str = "ReplicaSetCreateError";

/// One of the conditions.
pub fn condition<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
    status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
}

/// Sets a condition; one with the same status and reason stays as it is, one with the same status keeps its time.
fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let old = condition(Some(status), kind).cloned();
    if old.as_ref().is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    let since = old.filter(|old| old.status == value).and_then(|old| old.last_transition_time);
    put(status, kind, value, reason, message, since.unwrap_or(Time(now)), now);
}

fn put(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    since: Time,
    now: Timestamp,
) {
    remove(status, kind);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(since),
        last_update_time: Some(Time(now)),
    });
}

fn set_progressing(rollout: &mut Rollout, value: &str, reason: &str, message: String) {
    let now = rollout.now;
    set(rollout.deployment.status.get_or_insert_default(), PROGRESSING, value, reason, message, now);
}

/// Tells that a deployment was paused or resumed, unless a timeout was reported.
pub fn note_pausing(rollout: &mut Rollout) {
    if facts::progress_deadline_secs(&rollout.deployment).is_none() {
        return;
    }
    let reason = condition(rollout.deployment.status.as_ref(), PROGRESSING).and_then(|c| c.reason.clone());
    let noted = reason.as_deref() == Some(PAUSED);
    match facts::is_paused(&rollout.deployment) {
        _ if reason.as_deref() == Some(TIMED_OUT) => {}
        true if !noted => set_progressing(rollout, "Unknown", PAUSED, "Deployment is paused".into()),
        false if noted => set_progressing(rollout, "Unknown", RESUMED, "Deployment is resumed".into()),
        _ => {}
    }
}

/// Tells that a replica set of the present template was there already.
pub fn note_found(rollout: &mut Rollout, set: &str) {
    let told = condition(rollout.deployment.status.as_ref(), PROGRESSING).is_some();
    if facts::progress_deadline_secs(&rollout.deployment).is_some() && !told {
        set_progressing(rollout, "True", FOUND, format!("Found new replica set {set:?}"));
    }
}

/// Tells that a replica set is being created, or why that failed last time.
pub fn note_created(rollout: &mut Rollout, set: &str) {
    if facts::progress_deadline_secs(&rollout.deployment).is_none() {
        return;
    }
    let failure = rollout.failure().filter(|failure| failure.creating && !failure.is_namespace_terminating());
    match failure.map(|failure| failure.message.clone()) {
        Some(why) => {
            let message = format!("Failed to create new replica set {set:?}: {why}");
            set_progressing(rollout, "False", CREATE_ERROR, message);
        }
        None => set_progressing(rollout, "True", CREATED, format!("Created new replica set {set:?}")),
    }
}

fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Counts, and the condition Available.
pub fn calculate(rollout: &Rollout) -> DeploymentStatus {
    let (deployment, sets) = (&rollout.deployment, &rollout.sets);
    let existing = || sets.all().filter(|set| set.exists());
    let sum = |count: fn(&Set) -> i32| existing().map(count).sum::<i32>();
    let available = sum(|set| facts::set_available(&set.set));
    let old = deployment.status.clone().unwrap_or_default();
    let updated = sets.new.as_ref().filter(|new| new.exists()).map_or(0, |new| facts::set_actual(&new.set));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|set| facts::set_actual(&set.set))),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|set| set.set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sets.total_wanted() - available).max(0)),
        terminating_replicas: terminating(existing()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= facts::wanted(deployment) - facts::max_unavailable(deployment);
    let (value, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, AVAILABLE, value, reason, message.into(), rollout.now);
    status
}

/// Known only when every replica set reports it.
fn terminating<'a>(sets: impl Iterator<Item = &'a Set>) -> Option<i32> {
    sets.map(|set| set.set.status.as_ref().and_then(|status| status.terminating_replicas)).sum()
}

/// Whether a rollout is over: all replicas are of the present template and available, and this is known.
pub fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let Some(status) = status else { return false };
    let total = some(facts::wanted(deployment));
    status.updated_replicas == total
        && status.replicas == total
        && status.available_replicas == total
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether anything moved since the status was last written.
fn has_progressed(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let of = |count: fn(&DeploymentStatus) -> Option<i32>| {
        (old.and_then(count).unwrap_or(0), count(new).unwrap_or(0))
    };
    let (updated_was, updated) = of(|status| status.updated_replicas);
    let (was, now) = of(|status| status.replicas);
    let (ready_was, ready) = of(|status| status.ready_replicas);
    let (available_was, available) = of(|status| status.available_replicas);
    updated > updated_was
        || now - updated < was - updated_was
        || ready > ready_was
        || available > available_was
}

fn has_timed_out(rollout: &Rollout, status: &DeploymentStatus) -> bool {
    let Some(progressing) = condition(Some(status), PROGRESSING) else { return false };
    match progressing.reason.as_deref() {
        Some(COMPLETE) => return false,
        Some(TIMED_OUT) => return true,
        _ => {}
    }
    let Some(deadline) = facts::progress_deadline_secs(&rollout.deployment) else { return false };
    let Some(updated) = &progressing.last_update_time else { return false };
    clock::since(updated.0, rollout.now) > Duration::from_secs(u64::try_from(deadline).unwrap_or(0))
}

/// The status during a rollout, with the conditions Progressing and ReplicaFailure.
pub fn of_rollout(rollout: &Rollout) -> DeploymentStatus {
    let mut status = calculate(rollout);
    let deployment = &rollout.deployment;
    let has_deadline = facts::progress_deadline_secs(deployment).is_some();
    if !has_deadline {
        remove(&mut status, PROGRESSING);
    }
    let current = condition(deployment.status.as_ref(), PROGRESSING).cloned();
    let is_done = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|current| is_complete_of(current, rollout));
    if has_deadline && !is_done {
        progress(rollout, &mut status, current);
    }
    let failures = rollout.sets.new.iter().chain(&rollout.sets.old).filter(|set| set.exists());
    let failure = failures.filter_map(|set| failure_of(&set.set)).next().cloned();
    match failure {
        Some(failure) => set(
            &mut status,
            REPLICA_FAILURE,
            &failure.status,
            failure.reason.as_deref().unwrap_or(""),
            failure.message.unwrap_or_default(),
            rollout.now,
        ),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// Whether a condition tells that the present replica set's rollout is over (and not that of an earlier one).
fn is_complete_of(condition: &DeploymentCondition, rollout: &Rollout) -> bool {
    let new = rollout.sets.new.as_ref().filter(|new| new.exists());
    let named = new.is_none_or(|new| {
        let quoted = format!("{:?}", name(&new.set));
        condition.message.as_deref().is_some_and(|message| message.contains(&quoted))
    });
    condition.reason.as_deref() == Some(COMPLETE) && named
}

fn failure_of(set: &k8s_openapi::api::apps::v1::ReplicaSet) -> Option<&ReplicaSetCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
}

fn progress(rollout: &Rollout, status: &mut DeploymentStatus, current: Option<DeploymentCondition>) {
    let (deployment, now) = (&rollout.deployment, rollout.now);
    let subject = match rollout.sets.new.as_ref().filter(|new| new.exists()) {
        Some(new) => format!("ReplicaSet {:?}", name(&new.set)),
        None => format!("Deployment {:?}", name(deployment)),
    };
    if is_complete(deployment, Some(status)) {
        let message = format!("{subject} has successfully progressed.");
        let since = current.filter(|current| current.status == "True").and_then(|c| c.last_transition_time);
        put(status, PROGRESSING, "True", COMPLETE, message, since.unwrap_or(Time(now)), now);
    } else if has_progressed(deployment.status.as_ref(), status) {
        // Progress renews the time of update even when the reason stays.
        let since = current.filter(|current| current.status == "True").and_then(|c| c.last_transition_time);
        let message = format!("{subject} is progressing.");
        put(status, PROGRESSING, "True", UPDATED, message, since.unwrap_or(Time(now)), now);
    } else if has_timed_out(rollout, status) {
        set(status, PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."), now);
    }
}

/// Asks to come back when the deadline could pass without any event.
pub fn come_back(rollout: &Rollout, written: bool, plan: &mut Plan) {
    let deployment = &rollout.deployment;
    let (Some(deadline), false) = (facts::progress_deadline_secs(deployment), written) else { return };
    let Some(current) = condition(deployment.status.as_ref(), PROGRESSING) else { return };
    if is_complete(deployment, deployment.status.as_ref()) || current.reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let Some(updated) = &current.last_update_time else { return };
    let ends = clock::add(updated.0, Duration::from_secs(u64::try_from(deadline).unwrap_or(0)));
    plan.again_after(clock::until(ends, rollout.now) + Duration::from_secs(1));
}

/// Whether two statuses say the same; the order of conditions does not matter.
pub fn same(a: Option<&DeploymentStatus>, b: Option<&DeploymentStatus>) -> bool {
    let sorted = |status: Option<&DeploymentStatus>| {
        let mut status = status.cloned().unwrap_or_default();
        let numbers = [
            &mut status.replicas,
            &mut status.updated_replicas,
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.unavailable_replicas,
        ];
        // An absent count and zero are the same on the wire.
        numbers.into_iter().for_each(|count| *count = count.filter(|n| *n != 0));
        status.conditions.get_or_insert_default().sort_by(|a, b| a.type_.cmp(&b.type_));
        status
    };
    sorted(a) == sorted(b)
}
