//! Deployments: a template rolled out through replica sets, without losing more pods than allowed.
//!
//! In reading order: [`facts`] (numbers and names derived from a deployment), [`sets`] (its replica sets and the
//! pending changes to them), [`rollout`] (which new replica set, rolling, recreating), [`scaling`] (proportional),
//! [`status`] (counts and conditions). Every run ends in at most one write per object.

pub mod facts;
pub mod rollout;
pub mod scaling;
pub mod sets;
pub mod status;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use self::rollout::Rollout;
use self::sets::Sets;
use crate::claim::{Claim, claim};
use crate::meta::{controller_of, controller_ref, is_terminating, namespace, uid};
use crate::pods;
use crate::runtime::{
    Action, Change, Context, Controller, Enqueue, Key, Note, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::Selector;

struct Deployments {
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let deployments = wiring.on_self::<Deployment>();
    let all = deployments.clone();
    let sets = wiring.on::<ReplicaSet>(move |change, queue| keys_of_set(&all, change, queue));
    let (all, owners) = (deployments.clone(), sets.clone());
    let pods = wiring.on::<Pod>(move |change, queue| keys_of_pod(&all, &owners, change, queue));
    Box::new(Deployments { deployments, sets, pods, workers: wiring.options().workers.deployment })
}

fn keys_of_set(deployments: &Store<Deployment>, change: &Change<ReplicaSet>, queue: &mut Enqueue) {
    for set in change.both() {
        if let Some(owner) = controller_of::<ReplicaSet, Deployment>(set) {
            queue.add(Key::new(namespace(set.as_ref()), &owner.name));
        }
    }
    let Some(set) = change.new.as_ref().filter(|set| controller_ref(&set.metadata).is_none()) else { return };
    for deployment in deployments.in_namespace(namespace(set.as_ref())) {
        let selector = deployment.spec.as_ref().map(|spec| Selector::of(&spec.selector));
        if selector
            .is_some_and(|s| s.is_ok_and(|s| !s.picks_all() && s.matches(set.metadata.labels.as_ref())))
        {
            queue.add(Key::of(deployment.as_ref()));
        }
    }
}

/// Only a deployment that recreates cares for single pods: it waits for the last old one to go.
fn keys_of_pod(
    deployments: &Store<Deployment>,
    sets: &Store<ReplicaSet>,
    change: &Change<Pod>,
    queue: &mut Enqueue,
) {
    let (Some(old), None) = (&change.old, &change.new) else { return };
    let space = namespace(old.as_ref());
    let Some(set) = controller_of::<Pod, ReplicaSet>(old).and_then(|owner| sets.named(space, &owner.name))
    else {
        return;
    };
    let Some(owner) = controller_of::<ReplicaSet, Deployment>(&set) else { return };
    let key = Key::new(space, &owner.name);
    if deployments.get(&key).is_some_and(|deployment| facts::recreates(&deployment)) {
        queue.add(key);
    }
}

impl Controller for Deployments {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Plan::nothing()) };
        let spec = deployment.spec.as_ref().ok_or_else(|| ReconcileError::invalid(key, "spec is missing"))?;
        let selector = Selector::of(&spec.selector)?;
        if selector.picks_all() {
            return Ok(selects_all(&deployment));
        }
        let mut candidates = self.sets.owned_by(uid(deployment.as_ref()));
        candidates.extend(self.sets.orphaned_in(&key.namespace));
        let matches = |set: &ReplicaSet| selector.matches(set.metadata.labels.as_ref());
        let (owned, actions) = match claim(deployment.as_ref(), candidates, context, matches) {
            Claim::Unsure(ask) => return Ok(Plan::nothing().ask(ask)),
            Claim::Settled { owned, actions } => (owned, actions),
        };
        let sets = Sets::sort(&deployment, &owned);
        let mut rollout = Rollout::new(&deployment, sets, context);
        let ask = if is_terminating(deployment.as_ref()) {
            rollout.sync_status_only();
            None
        } else {
            rollout.run(|set| self.runs_pods(set))
        };
        if let Some(ask) = ask {
            return Ok(Plan::nothing().ask(ask));
        }
        let mut plan = Plan::nothing();
        actions.into_iter().for_each(|action| plan.act(action));
        rollout.finish(&mut plan);
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

impl Deployments {
    fn runs_pods(&self, set: &ReplicaSet) -> bool {
        self.pods.owned_by(uid(set)).iter().any(|pod| !pods::is_finished(pod))
    }
}

fn selects_all(deployment: &Deployment) -> Plan {
    let mut plan = Plan::nothing();
    let why = "This deployment is selecting all pods. A non-empty selector is required.";
    plan.note(Note::warning(deployment, "SelectingAll", why));
    let generation = deployment.metadata.generation;
    let observed = deployment.status.as_ref().and_then(|status| status.observed_generation);
    if observed.unwrap_or(0) < generation.unwrap_or(0) {
        let mut deployment = deployment.clone();
        deployment.status.get_or_insert_default().observed_generation = generation;
        plan.act(Action::update_status(&deployment));
    }
    plan
}
