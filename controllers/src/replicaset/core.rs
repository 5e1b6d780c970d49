//! The decision of both replica kinds: claim pods, create or delete the difference, report the status.
//!
//! Invariants: at most [`BURST_MAX`] pods are created or deleted in one run; pods being deleted never count; which
//! pods go first is upstream's order ([`crate::pods::deletion_order`]).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustc_hash::FxHashMap;

use crate::claim::{Claim, claim};
use crate::meta::{controller_of, controller_ref, is_terminating, name, namespace, uid};
use crate::pods;
use crate::runtime::{
    Action, Change, Context, Controller, Enqueue, Key, Note, Object, Pace, Plan, ReconcileError, Store,
};
use crate::selector::Selector;

/// Pods created or deleted in one run at most (upstream's BurstReplicas).
pub const BURST_MAX: usize = 500;
/// The condition of a set whose pods cannot be made or removed.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

/// How a replica kind looks to the core.
pub trait Kind: Object {
    /// Replicas asked for.
    fn wanted(&self) -> i32;
    /// Seconds a pod must have been ready to count as available.
    fn min_ready_secs(&self) -> i32;
    /// What pods are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// Which pods it may have.
    fn selector(&self) -> Result<Selector, ReconcileError>;
    /// The status as last written.
    fn status(&self) -> Status;
    /// The object with another status.
    fn with_status(&self, status: Status) -> Self;
}

/// The status of both kinds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Pods there are.
    pub replicas: i32,
    /// Pods with all labels of the template.
    pub fully_labeled: i32,
    /// Ready pods.
    pub ready: i32,
    /// Available pods.
    pub available: i32,
    /// Pods being deleted; a replication controller does not report them.
    pub terminating: Option<i32>,
    /// The generation this tells about.
    pub observed_generation: i64,
    /// Why pods cannot be made or removed.
    pub failing: Option<Failing>,
}

/// The condition [`REPLICA_FAILURE`].
#[derive(Debug, Clone, PartialEq)]
pub struct Failing {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: String,
    /// The API server's words.
    pub message: String,
    /// When it began.
    pub since: Option<Time>,
}

/// The loop of one replica kind.
pub struct Replicas<K> {
    /// The sets.
    pub sets: Store<K>,
    /// All pods.
    pub pods: Store<Pod>,
    /// Keys run at a time.
    pub workers: usize,
}

/// A pod's change runs its owner, or every set that may want to adopt it.
pub fn keys_of_pod<K: Kind>(sets: &Store<K>, change: &Change<Pod>, queue: &mut Enqueue) {
    for pod in change.both() {
        if let Some(owner) = controller_of::<Pod, K>(pod) {
            queue.add(Key::new(namespace(pod.as_ref()), &owner.name));
        }
    }
    let Some(pod) = change.new.as_ref().filter(|pod| controller_ref(&pod.metadata).is_none()) else { return };
    for set in sets.in_namespace(namespace(pod.as_ref())) {
        if set.selector().is_ok_and(|selector| selector.matches(pod.metadata.labels.as_ref())) {
            queue.add(Key::of(set.as_ref()));
        }
    }
}

impl<K: Kind> Controller for Replicas<K> {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let Some(set) = self.sets.get(key) else { return Ok(Plan::nothing()) };
        let selector = set.selector()?;
        if selector.picks_all() {
            return Ok(Plan::nothing());
        }
        let mut candidates = self.pods.owned_by(uid(set.as_ref()));
        let terminating =
            candidates.iter().filter(|pod| is_terminating(pod.as_ref()) && !pods::is_finished(pod)).count();
        candidates.extend(self.pods.orphaned_in(&key.namespace));
        candidates.retain(|pod| pods::is_active(pod));
        let claimed =
            claim(set.as_ref(), candidates, context, |pod| selector.matches(pod.metadata.labels.as_ref()));
        let (owned, actions) = match claimed {
            Claim::Unsure(ask) => return Ok(Plan::nothing().ask(ask)),
            Claim::Settled { owned, actions } => (owned, actions),
        };
        let mut plan = Plan::nothing();
        actions.into_iter().for_each(|action| plan.act(action));
        let status = self.status(set.as_ref(), &owned, terminating, context, &mut plan);
        let write = (status != set.status()).then(|| Action::update_status(&set.with_status(status)));
        // A failure of the run before is told before trying again: trying may fail again and end the run.
        let (before, after) = if context.failure.is_some() { (write, None) } else { (None, write) };
        before.into_iter().for_each(|action| plan.act(action));
        if !is_terminating(set.as_ref()) {
            self.manage(set.as_ref(), &owned, context.now, &mut plan);
        }
        after.into_iter().for_each(|action| plan.act(action));
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

impl<K: Kind> Replicas<K> {
    fn manage(&self, set: &K, owned: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
        let wanted = usize::try_from(set.wanted()).unwrap_or(0);
        if owned.len() < wanted {
            let Some(template) = set.template() else { return };
            let count = (wanted - owned.len()).min(BURST_MAX);
            plan.act_all(Pace::SlowStart, vec![create(set, template); count]);
        } else if owned.len() > wanted {
            let count = (owned.len() - wanted).min(BURST_MAX);
            let surplus = self.surplus(set, owned, count, now);
            plan.act_all(Pace::Parallel, surplus.iter().map(|pod| delete(set, pod)).collect());
        }
    }

    /// The pods to delete. Pods that share a node with many pods of related sets (same owner) go first.
    fn surplus(&self, set: &K, owned: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
        let mut crowds: FxHashMap<&str, usize> = FxHashMap::default();
        let related = self.related(set);
        for pod in related.iter().filter(|pod| pods::is_active(pod) && !pods::node_name(pod).is_empty()) {
            *crowds.entry(pods::node_name(pod)).or_default() += 1;
        }
        let mut ranked: Vec<_> = owned.to_vec();
        ranked.sort_by_cached_key(|pod| {
            pods::deletion_order(pod, crowds.get(pods::node_name(pod)).copied().unwrap_or(0), now)
        });
        ranked.truncate(count);
        ranked
    }

    /// Pods of all sets with the same owner (a deployment's old and new ones), or just of this set.
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = controller_ref(set.meta()).map(|owner| self.sets.owned_by(&owner.uid));
        match siblings {
            Some(siblings) => {
                siblings.iter().flat_map(|sibling| self.pods.owned_by(uid(sibling.as_ref()))).collect()
            }
            None => self.pods.owned_by(uid(set)),
        }
    }

    fn status(
        &self,
        set: &K,
        owned: &[Arc<Pod>],
        terminating: usize,
        context: &Context,
        plan: &mut Plan,
    ) -> Status {
        let old = set.status();
        let mut status = Status {
            replicas: count(owned.len()),
            observed_generation: set.meta().generation.unwrap_or(0),
            terminating: (K::kind(&()) == "ReplicaSet").then(|| count(terminating)),
            failing: failing(set, owned.len(), &old, context),
            ..Status::default()
        };
        let labels = set.template().and_then(|t| t.metadata.as_ref()).and_then(|meta| meta.labels.as_ref());
        for pod in owned {
            let have = pod.metadata.labels.as_ref();
            let full =
                labels.into_iter().flatten().all(|(k, v)| have.and_then(|have| have.get(k)) == Some(v));
            status.fully_labeled += i32::from(full);
            match pods::available_in(pod, set.min_ready_secs(), context.now) {
                None => {}
                Some(left) => {
                    status.ready += 1;
                    status.available += i32::from(left.is_zero());
                    if !left.is_zero() {
                        plan.again_after(left);
                    }
                }
            }
        }
        status
    }
}

/// The failure condition: set after a run whose writes of pods failed, kept while such runs go on, gone otherwise.
fn failing<K: Kind>(set: &K, have: usize, old: &Status, context: &Context) -> Option<Failing> {
    let wanted = usize::try_from(set.wanted()).unwrap_or(0);
    let failure =
        context.failure.filter(|failure| failure.code != 0 && failure.code != 409 && have != wanted)?;
    let reason = if have < wanted { "FailedCreate" } else { "FailedDelete" };
    let since = old.failing.as_ref().and_then(|failing| failing.since.clone());
    let since = since.or(Some(Time(context.now)));
    Some(Failing { reason: reason.into(), message: failure.message.clone(), since })
}

fn create<K: Kind>(set: &K, template: &PodTemplateSpec) -> Action {
    let pod = pods::from_template(template, set, &pods::name_prefix(name(set)));
    Action::create(&pod)
        .noting(Note::normal(set, "SuccessfulCreate", "Created pod: {name}"))
        .noting_failure(Note::warning(set, "FailedCreate", "Error creating: {error}"))
}

fn delete<K: Kind>(set: &K, pod: &Arc<Pod>) -> Action {
    Action::delete(pod.as_ref())
        .noting(Note::normal(set, "SuccessfulDelete", format!("Deleted pod: {}", name(pod.as_ref()))))
        .noting_failure(Note::warning(set, "FailedDelete", "Error deleting: {error}"))
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
