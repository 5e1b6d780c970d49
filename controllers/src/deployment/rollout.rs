//! One run over one deployment: which replica set is current, and how far old ones may shrink and it may grow.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::facts::{self, HASH_LABEL, REVISION};
use super::sets::{Set, Sets};
use super::status;
use crate::hash::short_hash;
use crate::meta::{annotation, name, namespace, owner_reference, uid};
use crate::runtime::{Action, Answer, Ask, Context, Failure, Gvr, Plan};

/// The state of one run.
pub struct Rollout<'a> {
    /// As it was read.
    original: &'a Deployment,
    /// As it shall be.
    pub deployment: Deployment,
    /// Its replica sets.
    pub sets: Sets,
    /// The wall clock.
    pub now: Timestamp,
    context: &'a Context<'a>,
    clean_up: bool,
    problem: Option<Failure>,
    status: Option<DeploymentStatus>,
}

impl<'a> Rollout<'a> {
    /// Starts a run.
    pub fn new(deployment: &'a Deployment, sets: Sets, context: &'a Context<'a>) -> Self {
        let (now, clean_up) = (context.now, false);
        let copy = deployment.clone();
        Self {
            original: deployment,
            deployment: copy,
            sets,
            now,
            context,
            clean_up,
            problem: None,
            status: None,
        }
    }

    /// Reports the status of a deployment that is being deleted.
    pub fn sync_status_only(&mut self) {
        self.find_current();
        self.status = Some(status::calculate(self));
    }

    /// Decides everything; `runs_pods` tells whether a replica set still has unfinished pods.
    pub fn run(&mut self, runs_pods: impl Fn(&ReplicaSet) -> bool) -> Option<Ask> {
        status::note_pausing(self);
        let scaling = self.is_scaling();
        self.find_current();
        if facts::is_paused(&self.deployment) || scaling {
            super::scaling::scale(&self.deployment, &mut self.sets);
            self.clean_up = facts::is_paused(&self.deployment);
            self.status = Some(status::calculate(self));
            return None;
        }
        let ask = if facts::recreates(&self.deployment) { self.recreate(runs_pods) } else { self.roll() };
        if ask.is_none() && self.problem.is_none() {
            self.status = Some(status::of_rollout(self));
        }
        ask
    }

    /// Turns the run into writes.
    pub fn finish(mut self, plan: &mut Plan) {
        let failed_before = self.context.failure.is_some();
        self.deployment.status = self.status.take().or(self.deployment.status);
        let annotated = self.deployment.metadata.annotations != self.original.metadata.annotations;
        let write = (annotated
            || !status::same(self.original.status.as_ref(), self.deployment.status.as_ref()))
        .then(|| Action::update_status(&self.deployment));
        status::come_back(&self, write.is_some(), plan);
        // After a failure the status goes first: what failed may fail again and end the run.
        let (before, after) = if failed_before { (write, None) } else { (None, write) };
        before.into_iter().for_each(|action| plan.act(action));
        if self.problem.is_none() {
            self.sets.write(self.original, plan);
            if self.clean_up {
                self.sets.clean_up(&self.deployment, plan);
            }
        }
        after.into_iter().for_each(|action| plan.act(action));
        plan.problem = self.problem;
    }

    /// The failure that ended the previous run.
    pub fn failure(&self) -> Option<&Failure> {
        self.context.failure
    }

    /// Whether the wanted number changed since the replica sets were last scaled.
    fn is_scaling(&self) -> bool {
        let total = facts::wanted(&self.deployment);
        let noted = |set: &Set| annotation(&set.set, facts::DESIRED)?.parse::<i32>().ok();
        self.sets
            .all()
            .filter(|set| set.wanted() > 0)
            .any(|set| noted(set).is_some_and(|desired| desired != total))
    }

    /// Brings an existing current replica set, and the deployment's revision, up to date.
    fn find_current(&mut self) {
        let revision = self.sets.next_revision();
        let Some(new) = &mut self.sets.new else { return };
        new.follow(&self.deployment, revision);
        let (found, revision) =
            (name(&new.set).to_string(), annotation(&new.set, REVISION).map(str::to_string));
        self.set_revision(revision);
        status::note_found(self, &found);
    }

    fn set_revision(&mut self, revision: Option<String>) {
        let Some(revision) = revision else { return };
        self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
    }

    /// Makes the current replica set when there is none. A name that is taken is looked at: it is either ours (the
    /// cache is behind) or an accident of the hash, which the next run avoids.
    fn create_current(&mut self) -> Option<Ask> {
        if self.sets.new.is_some() {
            return None;
        }
        let fresh = self.fresh_set()?;
        if self.context.failure.is_some_and(|failure| failure.creating && failure.code == 409) {
            let ask = Ask::Get(Gvr::of::<ReplicaSet>().object(namespace(&fresh), name(&fresh)));
            match self.context.answer(&ask) {
                None => return Some(ask),
                Some(Answer::Json(taken)) => return self.resolve_taken(taken),
                Some(_) => {}
            }
        }
        let mut fresh = Set::fresh(fresh);
        fresh.follow(&self.deployment, self.sets.next_revision());
        self.set_revision(annotation(&fresh.set, REVISION).map(str::to_string));
        let created = name(&fresh.set).to_string();
        self.sets.new = Some(fresh);
        let replicas = self.new_replicas();
        if let Some(new) = &mut self.sets.new {
            new.scale(&self.deployment, replicas, false);
        }
        status::note_created(self, &created);
        None
    }

    fn resolve_taken(&mut self, taken: &serde_json::Value) -> Option<Ask> {
        let set: Option<ReplicaSet> = serde_json::from_value(taken.clone()).ok();
        let ours = set.is_some_and(|set| {
            crate::meta::is_controlled_by(&set.metadata, &self.deployment.metadata)
                && facts::is_current(&self.deployment, &set)
        });
        if !ours {
            let status = self.deployment.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        self.problem =
            Some(Failure::local("the name of the new replica set is taken; it will be looked for again"));
        None
    }

    fn fresh_set(&self) -> Option<ReplicaSet> {
        let spec = self.deployment.spec.as_ref()?;
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = short_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector: LabelSelector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        Some(ReplicaSet {
            metadata: ObjectMeta {
                name: Some(facts::set_name(name(&self.deployment), &hash)),
                namespace: self.deployment.metadata.namespace.clone(),
                owner_references: Some(vec![owner_reference(&self.deployment)]),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        })
    }

    /// How many replicas the current replica set may have now.
    fn new_replicas(&self) -> i32 {
        let total = facts::wanted(&self.deployment);
        let now = self.sets.new.as_ref().map_or(0, Set::wanted);
        if facts::recreates(&self.deployment) {
            return total;
        }
        let room = total + facts::max_surge(&self.deployment) - self.sets.total_wanted();
        if room <= 0 { now } else { now + room.min(total - now) }
    }

    /// Rolling update: grow the new one as far as the surge allows, else shrink old ones as far as availability does.
    fn roll(&mut self) -> Option<Ask> {
        let ask = self.create_current();
        if ask.is_some() || self.problem.is_some() {
            return ask;
        }
        if self.sets.new.as_ref().is_some_and(Set::exists) && !self.grow_new() && !self.shrink_old() {
            self.clean_up = status::is_complete(&self.deployment, self.original.status.as_ref());
        }
        None
    }

    fn grow_new(&mut self) -> bool {
        let total = facts::wanted(&self.deployment);
        let to = match self.sets.new.as_ref().map(Set::wanted) {
            Some(now) if now > total => total,
            _ => self.new_replicas(),
        };
        let deployment = &self.deployment;
        self.sets.new.as_mut().is_some_and(|new| new.scale(deployment, to, false))
    }

    fn shrink_old(&mut self) -> bool {
        let min_available = facts::wanted(&self.deployment) - facts::max_unavailable(&self.deployment);
        let Some(new) = &self.sets.new else { return false };
        let new_unavailable = new.wanted() - facts::set_available(&new.set);
        let budget = self.sets.total_wanted() - min_available - new_unavailable;
        if budget <= 0 || self.sets.old.iter().all(|set| set.wanted() == 0) {
            return false;
        }
        let available = self.sets.total_available();
        let deployment = &self.deployment;
        let mut left = budget;
        // Replicas that are not available cost nothing to remove.
        for set in &mut self.sets.old {
            let unhealthy = (set.wanted() - facts::set_available(&set.set)).max(0).min(left);
            set.scale(deployment, set.wanted() - unhealthy, false);
            left -= unhealthy;
        }
        let mut shrinkable = (available - min_available).max(0);
        for set in &mut self.sets.old {
            let step = set.wanted().min(shrinkable);
            set.scale(deployment, set.wanted() - step, false);
            shrinkable -= step;
        }
        self.sets.old.iter().any(Set::is_resized)
    }

    /// Recreate: old pods are all gone before the new replica set gets any.
    fn recreate(&mut self, runs_pods: impl Fn(&ReplicaSet) -> bool) -> Option<Ask> {
        let deployment = &self.deployment;
        let mut scaled = false;
        for set in &mut self.sets.old {
            scaled |= set.scale(deployment, 0, false);
        }
        let current = self.sets.new.as_ref().map(|new| uid(&new.set).to_string());
        let busy = |set: &Set| {
            Some(uid(&set.set)) != current.as_deref()
                && (facts::set_actual(&set.set) > 0 || runs_pods(&set.set))
        };
        if scaled || self.sets.old.iter().any(busy) {
            return None;
        }
        let ask = self.create_current();
        if ask.is_some() || self.problem.is_some() {
            return ask;
        }
        let (deployment, total) = (&self.deployment, facts::wanted(&self.deployment));
        if let Some(new) = &mut self.sets.new {
            new.scale(deployment, total, false);
        }
        self.clean_up = status::is_complete(&self.deployment, self.original.status.as_ref());
        None
    }
}
