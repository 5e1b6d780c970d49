//! Jobs: pods that run to their end, counted exactly once.
//!
//! Counting: every pod carries a finalizer until it is counted. A finished pod's uid is first written to
//! `status.uncountedTerminatedPods`, then its finalizer is removed, then the uid is taken out of the list and the
//! counter raised in one write. Whatever is lost in between, the next run goes on from what is written.
//!
//! In reading order: [`facts`] (what the spec says), [`indexes`] (sets of completion indexes), [`policy`] (pod
//! failure and success policies), [`state`] (everything one run knows), [`finish`] (is it over, and why), [`manage`]
//! (creating and deleting pods), [`track`] (counting).

pub mod facts;
pub mod finish;
pub mod indexes;
pub mod manage;
pub mod policy;
pub mod state;
#[cfg(test)]
mod tests;
pub mod track;

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use self::state::State;
use crate::claim::{Claim, claim_with_finalizer};
use crate::meta::{controller_of, controller_ref, has_finalizer, name, namespace, uid};
use crate::runtime::{
    Action, Change, Context, Controller, Enqueue, Key, Note, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::Selector;

/// The finalizer of pods that are not counted yet.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Pod events are collected for so long before a job runs: one status write then counts many pods. A tenth of
/// upstream's second, so that short jobs end quickly.
const BATCH: Duration = Duration::from_millis(100);
/// Prefix of keys that stand for a pod without a live job; job names have no colon.
const POD_KEY: &str = "pod:";

struct Jobs {
    jobs: Store<Job>,
    pods: Store<Pod>,
    workers: usize,
}

/// Builds the loop; its keys are jobs, and pods whose job is gone or finished.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let pods = wiring.store::<Pod>();
    let of_job = pods.clone();
    let jobs = wiring.on::<Job>(move |change, queue| keys_of_job(&of_job, change, queue));
    let all = jobs.clone();
    wiring.on::<Pod>(move |change, queue| keys_of_pod(&all, change, queue));
    let workers = wiring.options().workers.job;
    Box::new(Jobs { jobs, pods, workers })
}

fn keys_of_job(pods: &Store<Pod>, change: &Change<Job>, queue: &mut Enqueue) {
    let Some(job) = change.latest() else { return };
    let own_write =
        change.old.as_ref().zip(change.new.as_ref()).is_some_and(|(old, new)| old.spec == new.spec);
    // A change of nothing but the status is mostly our own; what it leads to can wait for the batch.
    if own_write {
        queue.add_after(Key::of(job.as_ref()), BATCH)
    } else {
        queue.add(Key::of(job.as_ref()))
    }
    if change.new.is_none() || facts::is_finished(job) {
        for pod in pods.owned_by(uid(job.as_ref())) {
            queue.add(pod_key(&pod));
        }
    }
}

fn pod_key(pod: &Pod) -> Key {
    Key::new(namespace(pod), &format!("{POD_KEY}{}", name(pod)))
}

fn keys_of_pod(jobs: &Store<Job>, change: &Change<Pod>, queue: &mut Enqueue) {
    for pod in change.both() {
        if let Some(owner) = controller_of::<Pod, Job>(pod) {
            let key = Key::new(namespace(pod.as_ref()), &owner.name);
            if change.old.is_none() { queue.add(key) } else { queue.add_after(key, BATCH) }
        }
    }
    let Some(pod) = &change.new else { return };
    if has_finalizer(&pod.metadata, TRACKING) {
        queue.add_after(pod_key(pod), BATCH);
    }
    if controller_ref(&pod.metadata).is_none() {
        for job in jobs.in_namespace(namespace(pod.as_ref())) {
            let selector = facts::selector(&job);
            if selector.is_ok_and(|selector| selector.matches(pod.metadata.labels.as_ref())) {
                queue.add(Key::of(job.as_ref()));
            }
        }
    }
}

impl Controller for Jobs {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        if let Some(pod) = key.name.strip_prefix(POD_KEY) {
            return Ok(self.release(&Key::new(&key.namespace, pod)));
        }
        let Some(job) = self.jobs.get(key) else { return Ok(Plan::nothing()) };
        if facts::is_managed_elsewhere(&job) || facts::is_finished(&job) {
            return Ok(Plan::nothing());
        }
        if !facts::has_known_mode(&job) {
            let mut plan = Plan::nothing();
            let why = "Skipped Job sync because completion mode is unknown";
            plan.note(Note::warning(job.as_ref(), "UnknownCompletionMode", why));
            return Ok(plan);
        }
        let selector: Selector = facts::selector(&job)?;
        let mut candidates = self.pods.owned_by(uid(job.as_ref()));
        candidates.extend(self.pods.orphaned_in(&key.namespace));
        let matches = |pod: &Pod| selector.matches(pod.metadata.labels.as_ref());
        match claim_with_finalizer(job.as_ref(), candidates, context, matches, Some(TRACKING)) {
            Claim::Unsure(ask) => Ok(Plan::nothing().ask(ask)),
            Claim::Settled { owned, actions } if actions.is_empty() => {
                Ok(State::new(&job, owned, context).plan())
            }
            // What was adopted or released is counted by the next run, which sees it.
            Claim::Settled { actions, .. } => {
                let mut plan = Plan::nothing();
                actions.into_iter().for_each(|action| plan.act(action));
                Ok(plan)
            }
        }
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

impl Jobs {
    /// Removes the finalizer from a pod that no live job will ever count.
    fn release(&self, key: &Key) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = self.pods.get(key).filter(|pod| has_finalizer(&pod.metadata, TRACKING)) else {
            return plan;
        };
        if let Some(owner) = controller_ref(&pod.metadata) {
            let Some(owner) = controller_of::<Pod, Job>(&pod).filter(|found| found.uid == owner.uid) else {
                return plan;
            };
            let job =
                self.jobs.named(&key.namespace, &owner.name).filter(|job| uid(job.as_ref()) == owner.uid);
            let counts = |job: &Job| facts::is_managed_elsewhere(job) || !facts::is_finished(job);
            if job.is_some_and(|job| counts(&job)) {
                return plan;
            }
        }
        plan.act(remove_finalizer(&pod));
        plan
    }
}

/// Takes the tracking finalizer off a pod; that the pod is gone is fine.
pub fn remove_finalizer(pod: &Pod) -> Action {
    let kept: Vec<_> = pod.metadata.finalizers.iter().flatten().filter(|have| *have != TRACKING).collect();
    let kept = if kept.is_empty() { serde_json::Value::Null } else { serde_json::json!(kept) };
    let patch = serde_json::json!({"metadata": {
        "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": kept}});
    Action::merge(pod, patch).tolerating(&[404])
}
