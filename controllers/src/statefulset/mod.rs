//! StatefulSets: pods with names, storage and order of their own.
//!
//! In reading order: [`identity`] (names, ordinals, the pod of an ordinal), [`claims`] (its volume claims and who owns
//! them), [`rollout`] (what one run does, in order or in parallel), this module (wiring, revisions, status).

pub mod claims;
pub mod identity;
pub mod rollout;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use rustc_hash::FxHashSet;

use self::rollout::Run;
use crate::claim::{Claim, claim};
use crate::history::{self, HASH_LABEL, History, Unsettled};
use crate::meta::{controller_of, controller_ref, is_terminating, label, name, namespace, uid};
use crate::runtime::{
    Action, Change, Context, Controller, Enqueue, Key, Pace, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::Selector;

struct StatefulSets {
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let sets = wiring.on_self::<StatefulSet>();
    let all = sets.clone();
    let pods = wiring.on::<Pod>(move |change, queue| keys_of_pod(&all, change, queue));
    let claims = wiring.store::<PersistentVolumeClaim>();
    let revisions = wiring.on_owned::<ControllerRevision, StatefulSet>();
    Box::new(StatefulSets { sets, pods, claims, revisions, workers: wiring.options().workers.statefulset })
}

fn keys_of_pod(sets: &Store<StatefulSet>, change: &Change<Pod>, queue: &mut Enqueue) {
    for pod in change.both() {
        if let Some(owner) = controller_of::<Pod, StatefulSet>(pod) {
            queue.add(Key::new(namespace(pod.as_ref()), &owner.name));
        }
    }
    let Some(pod) = change.new.as_ref().filter(|pod| controller_ref(&pod.metadata).is_none()) else { return };
    if let Some((parent, _)) = identity::parse(name(pod.as_ref())) {
        let key = Key::new(namespace(pod.as_ref()), parent);
        if sets.get(&key).is_some() {
            queue.add(key);
        }
    }
}

impl Controller for StatefulSets {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(set) = self.sets.get(key) else { return Ok(plan) };
        let Some(spec) = &set.spec else { return Ok(plan) };
        let selector = Selector::of(&spec.selector)?;
        let mut candidates = self.pods.owned_by(uid(set.as_ref()));
        candidates.extend(self.pods.orphaned_in(&key.namespace));
        let matches = |pod: &Pod| {
            let ours = identity::parse(name(pod)).is_some_and(|(parent, _)| parent == name(set.as_ref()));
            ours && selector.matches(pod.metadata.labels.as_ref())
        };
        let (owned, actions) = match claim(set.as_ref(), candidates, context, matches) {
            Claim::Unsure(ask) => return Ok(plan.ask(ask)),
            Claim::Settled { owned, actions } => (owned, actions),
        };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let revisions = self.revisions.owned_by(uid(set.as_ref()));
        let history = match history::settle(set.as_ref(), &spec.template, revisions, collisions, context) {
            Err(Unsettled::Ask(ask)) => return Ok(plan.ask(ask)),
            Err(Unsettled::Collision(count)) => {
                let mut set = set.as_ref().clone();
                set.status.get_or_insert_default().collision_count = Some(count);
                plan.act(Action::update_status(&set));
                return Ok(plan);
            }
            Ok(history) => history,
        };
        actions.into_iter().for_each(|action| plan.act(action));
        history.write.clone().into_iter().for_each(|action| plan.act(action));
        self.run(&set, owned, &history, context, &mut plan);
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

impl StatefulSets {
    fn run(
        &self,
        set: &StatefulSet,
        owned: Vec<Arc<Pod>>,
        history: &History,
        context: &Context,
        plan: &mut Plan,
    ) {
        let mut status = self.status(set, &owned, history);
        let revisions = revisions_in_use(set, history);
        let run = Run::new(set, &owned, &self.claims, &revisions, context.now);
        run.count(&mut status, plan);
        complete(set, &mut status);
        let write = (!is_same(set.status.as_ref(), &status))
            .then(|| Action::update_status(&StatefulSet { status: Some(status), ..set.clone() }));
        let (before, after) = if context.failure.is_some() { (write, None) } else { (None, write) };
        before.into_iter().for_each(|action| plan.act(action));
        if !is_terminating(set) {
            run.decide(plan);
        }
        after.into_iter().for_each(|action| plan.act(action));
        let mut live: FxHashSet<String> =
            owned.iter().filter_map(|pod| label(pod.as_ref(), HASH_LABEL)).map(str::to_string).collect();
        live.insert(revisions.current);
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        plan.act_all(
            Pace::Parallel,
            history::clean_up(&history.old, limit, |revision| live.contains(name(revision))),
        );
    }

    fn status(&self, set: &StatefulSet, _owned: &[Arc<Pod>], history: &History) -> StatefulSetStatus {
        let old = set.status.clone().unwrap_or_default();
        let revisions = revisions_in_use(set, history);
        StatefulSetStatus {
            observed_generation: set.metadata.generation,
            current_revision: Some(revisions.current),
            update_revision: Some(revisions.update),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
            ..StatefulSetStatus::default()
        }
    }
}

/// The two revisions between which a set moves.
pub struct Revisions {
    /// Name of the one it comes from.
    pub current: String,
    /// Name of the one it goes to.
    pub update: String,
    /// The template of the one it comes from.
    pub current_template: k8s_openapi::api::core::v1::PodTemplateSpec,
}

fn revisions_in_use(set: &StatefulSet, history: &History) -> Revisions {
    let update = name(&history.current).to_string();
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let named = set.status.as_ref().and_then(|status| status.current_revision.clone());
    let found = named.and_then(|named| history.old.iter().find(|revision| name(revision.as_ref()) == named));
    match found {
        Some(found) => {
            let current_template = history::template_of(found).unwrap_or(template);
            Revisions { current: name(found.as_ref()).to_string(), update, current_template }
        }
        None => Revisions { current: update.clone(), update, current_template: template },
    }
}

/// A rollout that has reached every pod makes the new revision the current one.
fn complete(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolls = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    let wanted = identity::wanted(set);
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted;
    if rolls && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == wanted {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

/// Absent and zero counts are the same on the wire.
fn is_same(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let normal = |status: &StatefulSetStatus| {
        let mut status = status.clone();
        for count in [
            &mut status.ready_replicas,
            &mut status.current_replicas,
            &mut status.updated_replicas,
            &mut status.available_replicas,
        ] {
            *count = count.filter(|n| *n != 0);
        }
        status
    };
    old.is_some_and(|old| normal(old) == normal(new))
}
