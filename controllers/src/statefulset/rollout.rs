//! One run over a StatefulSet. In order: every pod waits for the ones before it to be available, pods beyond the
//! wanted number go from the last, and a new revision goes from the last to the first. In parallel mode nothing waits
//! but the rollout, for what may be unavailable.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::claims::{self, Claims};
use super::{Revisions, identity};
use crate::deployment::facts::resolve;
use crate::history::HASH_LABEL;
use crate::meta::{is_terminating, label, name, uid};
use crate::pods;
use crate::runtime::{Action, Note, Pace, Plan, Store};

/// The n-th pod: there, or to be made.
enum Replica {
    Existing(Arc<Pod>),
    Missing(Box<Pod>),
}

/// One run over one set.
pub struct Run<'a> {
    set: &'a StatefulSet,
    claims: &'a Store<PersistentVolumeClaim>,
    revisions: &'a Revisions,
    replicas: Vec<(i32, Replica)>,
    /// Pods beyond the wanted number, the last first.
    condemned: Vec<Arc<Pod>>,
    now: Timestamp,
}

impl<'a> Run<'a> {
    /// Sorts the pods of a set.
    pub fn new(
        set: &'a StatefulSet,
        owned: &[Arc<Pod>],
        claims: &'a Store<PersistentVolumeClaim>,
        revisions: &'a Revisions,
        now: Timestamp,
    ) -> Self {
        let first = identity::start(set);
        let ordinals = first..first.saturating_add(identity::wanted(set));
        let at = |ordinal: i32| owned.iter().find(|pod| identity::ordinal(pod) == Some(ordinal)).cloned();
        let replica = |ordinal| match at(ordinal) {
            Some(pod) => (ordinal, Replica::Existing(pod)),
            None => (ordinal, Replica::Missing(Box::new(identity::new_pod(set, ordinal, revisions)))),
        };
        let out_of_range =
            |pod: &&Arc<Pod>| identity::ordinal(pod).is_some_and(|n| !identity::in_range(set, n));
        let mut condemned: Vec<_> = owned.iter().filter(out_of_range).cloned().collect();
        condemned.sort_by_key(|pod| std::cmp::Reverse(identity::ordinal(pod)));
        Self { set, claims, revisions, replicas: ordinals.map(replica).collect(), condemned, now }
    }

    fn in_parallel(&self) -> bool {
        self.set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel")
    }

    fn min_ready_secs(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running" && pods::is_available(pod, self.min_ready_secs(), self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !is_terminating(pod)
    }

    fn existing(&self) -> impl DoubleEndedIterator<Item = &Arc<Pod>> {
        self.replicas.iter().filter_map(|(_, replica)| match replica {
            Replica::Existing(pod) => Some(pod),
            Replica::Missing(_) => None,
        })
    }

    /// Counts the pods, and asks to come back when one is about to become available.
    pub fn count(&self, status: &mut StatefulSetStatus, plan: &mut Plan) {
        let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
        for pod in self.existing().chain(&self.condemned) {
            status.replicas += 1;
            if let Some(left) = pods::available_in(pod, self.min_ready_secs(), self.now)
                .filter(|_| pods::phase(pod) == "Running")
            {
                ready += 1;
                available += i32::from(left.is_zero());
                if !left.is_zero() {
                    plan.again_after(left);
                }
            }
            if !is_terminating(pod.as_ref()) {
                let revision = label(pod.as_ref(), HASH_LABEL);
                current += i32::from(revision == Some(self.revisions.current.as_str()));
                updated += i32::from(revision == Some(self.revisions.update.as_str()));
            }
        }
        status.ready_replicas = Some(ready);
        status.available_replicas = Some(available);
        status.current_replicas = Some(current);
        status.updated_replicas = Some(updated);
    }

    /// Decides what to write.
    pub fn decide(&self, plan: &mut Plan) {
        let in_parallel = self.in_parallel();
        let pace = if in_parallel { Pace::SlowStart } else { Pace::Serial };
        let mut actions = Vec::new();
        for (ordinal, replica) in &self.replicas {
            let blocks = self.process(*ordinal, replica, &mut actions, plan);
            if blocks && !in_parallel {
                return plan.act_all(pace, actions);
            }
        }
        for pod in &self.condemned {
            let ordinal = identity::ordinal(pod).unwrap_or(0);
            if let Claims::Ready(fixes) = claims::of_pod(self.set, pod, ordinal, self.claims) {
                actions.extend(fixes);
            }
        }
        let fixed = actions.is_empty();
        plan.act_all(pace, actions);
        let scaled_down = self.scale_down(plan);
        if fixed && !scaled_down {
            self.roll(plan);
        }
    }

    /// Brings one replica forward. Returns whether those after it must wait.
    fn process(&self, ordinal: i32, replica: &Replica, actions: &mut Vec<Action>, plan: &mut Plan) -> bool {
        let pod = match replica {
            Replica::Missing(pod) => {
                match claims::of_pod(self.set, pod, ordinal, self.claims) {
                    Claims::Blocked => plan.again_after(std::time::Duration::from_secs(1)),
                    // The claims go first, in a batch of their own; a pod without them could not start.
                    Claims::Missing(claims) => {
                        plan.act_all(Pace::Serial, claims);
                        actions.push(self.create(pod));
                    }
                    Claims::Ready(_) => actions.push(self.create(pod)),
                }
                return true;
            }
            Replica::Existing(pod) => pod,
        };
        if pods::is_finished(pod) {
            if !is_terminating(pod.as_ref()) {
                actions.push(self.delete(pod));
            }
            return true;
        }
        match claims::of_pod(self.set, pod, ordinal, self.claims) {
            Claims::Missing(claims) if pods::phase(pod) == "Pending" => actions.extend(claims),
            Claims::Ready(fixes) => actions.extend(fixes),
            Claims::Missing(_) | Claims::Blocked => {}
        }
        if !self.is_healthy(pod) {
            return true;
        }
        if !identity::is_labelled(pod) {
            actions.push(self.relabel(pod, ordinal));
        }
        false
    }

    fn relabel(&self, pod: &Pod, ordinal: i32) -> Action {
        let labels = json!({identity::POD_NAME: name(pod), identity::POD_INDEX: ordinal.to_string()});
        let told = |end: &str| format!("Update Pod {} in StatefulSet {} {end}", name(pod), name(self.set));
        Action::merge(pod, json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}}))
            .noting(Note::normal(self.set, "SuccessfulUpdate", told("successful")))
            .noting_failure(Note::warning(self.set, "FailedUpdate", told("failed error: {error}")))
    }

    fn create(&self, pod: &Pod) -> Action {
        let told = |end: &str| format!("Create Pod {} in StatefulSet {} {end}", name(pod), name(self.set));
        Action::create(pod)
            .noting(Note::normal(self.set, "SuccessfulCreate", told("successful")))
            .noting_failure(Note::warning(self.set, "FailedCreate", told("failed error: {error}")))
    }

    fn delete(&self, pod: &Arc<Pod>) -> Action {
        let told =
            |end: &str| format!("Delete Pod {} in StatefulSet {} {end}", name(pod.as_ref()), name(self.set));
        Action::delete(pod.as_ref())
            .noting(Note::normal(self.set, "SuccessfulDelete", told("successful")))
            .noting_failure(Note::warning(self.set, "FailedDelete", told("failed error: {error}")))
    }

    /// Deletes pods beyond the wanted number: all at once in parallel mode, else the last one, unless another pod is
    /// unhealthy. Returns whether anything is going on.
    fn scale_down(&self, plan: &mut Plan) -> bool {
        if self.in_parallel() {
            let doomed = self.condemned.iter().filter(|pod| !is_terminating(pod.as_ref()));
            plan.act_all(Pace::Parallel, doomed.map(|pod| self.delete(pod)).collect());
            return !self.condemned.is_empty();
        }
        let Some(last) = self.condemned.first() else { return false };
        let unhealthy = self.existing().chain(self.condemned.iter().rev()).find(|pod| !self.is_healthy(pod));
        let is_first_unhealthy = unhealthy.is_some_and(|pod| uid(pod.as_ref()) == uid(last.as_ref()));
        if !is_terminating(last.as_ref()) && (self.is_available(last) || is_first_unhealthy) {
            plan.act(self.delete(last));
        }
        true
    }

    /// Replaces pods of the old revision, the last first, down to the partition and within what may be unavailable.
    fn roll(&self, plan: &mut Plan) {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let one = IntOrString::Int(1);
        let limit = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&one);
        let limit = resolve(Some(limit), identity::wanted(self.set), false).max(1);
        let unavailable = self.existing().filter(|pod| !self.is_healthy(pod)).count();
        let missing = self.replicas.len() - self.existing().count();
        let room = usize::try_from(limit).unwrap_or(1).saturating_sub(unavailable + missing);
        let lowest = identity::start(self.set).saturating_add(partition);
        let outdated = self.existing().rev().filter(|pod| {
            identity::ordinal(pod).is_some_and(|ordinal| ordinal >= lowest)
                && label(pod.as_ref(), HASH_LABEL) != Some(self.revisions.update.as_str())
                && !is_terminating(pod.as_ref())
        });
        plan.act_all(Pace::Serial, outdated.take(room).map(|pod| self.delete(pod)).collect());
    }
}
