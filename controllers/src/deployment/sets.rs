//! The replica sets of one deployment and the changes a run wants to make to them. Changes are collected and written
//! once, so that one run never writes an object twice.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::facts::{self, DESIRED, MAX, REVISION, REVISION_HISTORY};
use crate::meta::{annotation, created_at, is_terminating, name};
use crate::runtime::{Action, Note, Plan};

/// Longest revision history of a replica set, in characters (about a hundred revisions; upstream's limit).
const HISTORY_LENGTH_MAX: usize = 2000;

/// A replica set with its wanted changes.
#[derive(Clone)]
pub struct Set {
    /// As it shall be.
    pub set: ReplicaSet,
    /// Replicas it asks for now.
    from: i32,
    changed: bool,
    exists: bool,
}

impl Set {
    fn existing(set: &ReplicaSet) -> Self {
        Self { from: facts::set_wanted(set), set: set.clone(), changed: false, exists: true }
    }

    /// A replica set to be created.
    pub fn fresh(set: ReplicaSet) -> Self {
        Self { set, from: 0, changed: true, exists: false }
    }

    /// Replicas it shall ask for.
    pub fn wanted(&self) -> i32 {
        facts::set_wanted(&self.set)
    }

    /// Whether this run changes its number.
    pub fn is_resized(&self) -> bool {
        self.wanted() != self.from
    }

    /// Whether it exists already.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// Asks for `to` replicas; keeps the notes about the deployment's size up to date. With `force`, these notes are
    /// renewed even when the number stays. Returns whether the number changes.
    pub fn scale(&mut self, deployment: &Deployment, to: i32, force: bool) -> bool {
        let resized = self.wanted() != to;
        if !resized && !force {
            return false;
        }
        if let Some(spec) = self.set.spec.as_mut().filter(|_| resized) {
            spec.replicas = Some(to);
        }
        self.changed |= resized;
        self.note_size(deployment);
        resized
    }

    fn note_size(&mut self, deployment: &Deployment) {
        let total = facts::wanted(deployment);
        self.annotate(DESIRED, total.to_string());
        self.annotate(MAX, (total + facts::max_surge(deployment)).to_string());
    }

    fn annotate(&mut self, key: &str, value: String) {
        if annotation(&self.set, key) != Some(value.as_str()) {
            self.set.metadata.annotations.get_or_insert_default().insert(key.into(), value);
            self.changed = true;
        }
    }

    /// Brings annotations, revision and minReadySeconds of the current replica set up to date.
    pub fn follow(&mut self, deployment: &Deployment, revision: i64) {
        let copied: Vec<_> = deployment.metadata.annotations.iter().flatten().collect();
        for (key, value) in copied.into_iter().filter(|(key, _)| !facts::NOT_COPIED.contains(&key.as_str())) {
            self.annotate(key, value.clone());
        }
        let old = annotation(&self.set, REVISION).map(str::to_string);
        if facts::revision(&self.set) < revision {
            if let Some(old) = old {
                self.remember_revision(&old);
            }
            self.annotate(REVISION, revision.to_string());
        }
        if !self.exists {
            self.note_size(deployment);
        }
        let min_ready =
            deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).filter(|secs| *secs != 0);
        if let Some(spec) = self.set.spec.as_mut()
            && spec.min_ready_seconds.filter(|secs| *secs != 0) != min_ready
        {
            spec.min_ready_seconds = min_ready;
            self.changed = true;
        }
    }

    fn remember_revision(&mut self, old: &str) {
        let history = annotation(&self.set, REVISION_HISTORY).unwrap_or("").to_string();
        let mut parts: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
        parts.push(old);
        let mut joined = parts.join(",");
        while joined.len() > HISTORY_LENGTH_MAX && parts.len() > 1 {
            parts.remove(0);
            joined = parts.join(",");
        }
        self.annotate(REVISION_HISTORY, joined);
    }

    fn write(&self, deployment: &Deployment) -> Option<Action> {
        if !self.changed {
            return None;
        }
        let (to, set) = (self.wanted(), name(&self.set));
        let scaled = |word: &str| {
            let message = format!("Scaled {word} replica set {set} from {} to {to}", self.from);
            Note::normal(deployment, "ScalingReplicaSet", message)
        };
        let mut action = if self.exists {
            Action::update(&self.set)
        } else {
            let message = format!("Failed to create new replica set {set:?}: {{error}}");
            Action::create(&self.set).noting_failure(Note::warning(
                deployment,
                "ReplicaSetCreateError",
                message,
            ))
        };
        if to != self.from {
            action = action.noting(scaled(if to > self.from { "up" } else { "down" }));
        }
        Some(action)
    }
}

/// All replica sets of a deployment.
pub struct Sets {
    /// The one with the present template.
    pub new: Option<Set>,
    /// The others, oldest first.
    pub old: Vec<Set>,
}

impl Sets {
    /// Finds the current one among the claimed: the oldest with the present template.
    pub fn sort(deployment: &Deployment, owned: &[Arc<ReplicaSet>]) -> Self {
        let mut all: Vec<&Arc<ReplicaSet>> = owned.iter().collect();
        all.sort_by_key(|set| (created_at(&set.metadata), name(set.as_ref()).to_string()));
        let current = all.iter().position(|set| facts::is_current(deployment, set));
        let new = current.map(|at| Set::existing(all.remove(at)));
        Self { new, old: all.into_iter().map(|set| Set::existing(set)).collect() }
    }

    /// All, the current one last.
    pub fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(self.new.iter())
    }

    /// All, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        self.old.iter_mut().chain(self.new.iter_mut())
    }

    /// Replicas asked for by all.
    pub fn total_wanted(&self) -> i32 {
        self.all().map(Set::wanted).sum()
    }

    /// Available pods of all.
    pub fn total_available(&self) -> i32 {
        self.all().map(|set| facts::set_available(&set.set)).sum()
    }

    /// The revision the current replica set must have at least.
    pub fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| facts::revision(&set.set)).max().unwrap_or(0) + 1
    }

    /// Writes the changes.
    pub fn write(&self, deployment: &Deployment, plan: &mut Plan) {
        let (down, up): (Vec<_>, Vec<_>) = self.all().partition(|set| set.wanted() <= set.from && set.exists);
        for set in down.into_iter().chain(up) {
            set.write(deployment).into_iter().for_each(|action| plan.act(action));
        }
    }

    /// Deletes replica sets beyond the history limit: the oldest revisions that have and want no pods.
    pub fn clean_up(&self, deployment: &Deployment, plan: &mut Plan) {
        let Some(limit) = facts::history_limit(deployment) else { return };
        let mut alive: Vec<&Set> = self.old.iter().filter(|set| !is_terminating(&set.set)).collect();
        alive.sort_by_key(|set| facts::revision(&set.set));
        let excess = alive.len().saturating_sub(limit);
        for set in alive.into_iter().take(excess).map(|set| &set.set) {
            let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
            let unseen = set.metadata.generation.unwrap_or(0) > observed;
            if facts::set_actual(set) == 0 && facts::set_wanted(set) == 0 && !unseen {
                plan.act(Action::delete(set));
            }
        }
    }
}
