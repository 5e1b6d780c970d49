//! Creating and deleting a job's pods: as many as parallelism and the remaining completions ask for, after the pause
//! that failures demand; duplicates of an index and pods of a suspended job are deleted uncounted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec,
};

use super::facts::{self, INDEX, INDEX_FAILURES, INDEX_IGNORED};
use super::policy;
use super::state::{State, count};
use super::{TRACKING, remove_finalizer};
use crate::meta::{has_finalizer, is_terminating, name};
use crate::pods;
use crate::runtime::{Action, Note, Pace, Plan};

/// Pods created or deleted in one run at most (upstream's MaxPodCreateDeletePerSync).
const BURST_MAX: usize = 500;

/// What managing wants to write, and how the counts will be afterwards.
#[derive(Default)]
pub struct Managed {
    /// The writes.
    pub batches: Vec<(Pace, Vec<Action>)>,
    /// Pods created.
    pub created: i32,
    /// Pods deleted.
    pub deleted: i32,
    /// Of these, ready ones.
    pub deleted_ready: i32,
    /// Of these, bound ones, which will take a while to end.
    pub deleted_bound: i32,
}

impl State<'_> {
    /// Decides about creations and deletions.
    pub fn manage(&self, ending: bool, plan: &mut Plan) -> Managed {
        if ending {
            return self.delete(&self.active, false);
        }
        if is_terminating(self.job) {
            return Managed::default();
        }
        if facts::is_suspended(self.job) {
            return self.delete(&self.active, true);
        }
        let active = count(self.active.len());
        let wanted = self.wanted_active(active);
        let surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            return self.delete(&surplus, true);
        }
        let waiting = if facts::replaces_only_failed(self.job) { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - waiting - active).unwrap_or(0);
        if missing == 0 { Managed::default() } else { self.create(missing.min(BURST_MAX), plan) }
    }

    fn wanted_active(&self, active: i32) -> i32 {
        let parallelism = facts::parallelism(self.job);
        match facts::completions(self.job) {
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        }
    }

    /// Pods to delete: those with no, a wrong or a doubled index, then by the usual order.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let order = |pod: &Pod| pods::deletion_order(pod, 0, self.now);
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        if facts::is_indexed(self.job) {
            let mut by_index: BTreeMap<u32, Vec<Arc<Pod>>> = BTreeMap::new();
            for pod in &self.active {
                match facts::index(pod, self.job) {
                    None => gone.push(pod.clone()),
                    Some(index) => by_index.entry(index).or_default().push(pod.clone()),
                }
            }
            for mut same in by_index.into_values() {
                same.sort_by_cached_key(|pod| order(pod));
                kept.extend(same.pop());
                gone.extend(same);
            }
        } else {
            kept = self.active.clone();
        }
        if gone.len() < at_least {
            kept.sort_by_cached_key(|pod| order(pod));
            gone.extend(kept.into_iter().take(at_least - gone.len()));
        }
        gone.truncate(BURST_MAX);
        gone
    }

    /// Deletes pods; `uncounted` takes the finalizer off first, so that they are not counted as failed.
    fn delete(&self, doomed: &[Arc<Pod>], uncounted: bool) -> Managed {
        let mut managed = Managed { deleted: count(doomed.len()), ..Managed::default() };
        managed.deleted_ready = count(doomed.iter().filter(|pod| pods::is_ready(pod)).count());
        managed.deleted_bound = count(doomed.iter().filter(|pod| !pods::node_name(pod).is_empty()).count());
        if uncounted {
            let tracked = doomed.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING));
            managed.batches.push((Pace::Parallel, tracked.map(|pod| remove_finalizer(pod)).collect()));
        }
        let deletions = doomed.iter().map(|pod| {
            let message = format!("Deleted pod: {}", name(pod.as_ref()));
            Action::delete(pod.as_ref())
                .noting(Note::normal(self.job, "SuccessfulDelete", message))
                .noting_failure(Note::warning(self.job, "FailedDelete", "Error deleting: {error}"))
        });
        managed.batches.push((Pace::Parallel, deletions.collect()));
        managed
    }

    fn create(&self, missing: usize, plan: &mut Plan) -> Managed {
        let per_index = facts::backoff_limit_per_index(self.job).is_some();
        let pause = if per_index { Duration::ZERO } else { self.pause() };
        if !pause.is_zero() {
            plan.again_after(pause);
            return Managed::default();
        }
        let bodies: Vec<Pod> = match facts::completions(self.job).filter(|_| facts::is_indexed(self.job)) {
            None => {
                let template = self.template();
                vec![pods::from_template(&template, self.job, &pods::name_prefix(name(self.job))); missing]
            }
            Some(completions) => {
                let indexes = self.indexes_to_create(missing, completions, plan);
                indexes.into_iter().map(|index| self.indexed_pod(index)).collect()
            }
        };
        let creations: Vec<Action> = bodies.iter().map(|pod| self.creation(pod)).collect();
        Managed {
            created: count(creations.len()),
            batches: vec![(Pace::SlowStart, creations)],
            ..Managed::default()
        }
    }

    fn creation(&self, pod: &Pod) -> Action {
        Action::create(pod)
            .noting(Note::normal(self.job, "SuccessfulCreate", "Created pod: {name}"))
            .noting_failure(Note::warning(self.job, "FailedCreate", "Error creating: {error}"))
    }

    /// How long to wait after failures in a row, counted since the last success.
    fn pause(&self) -> Duration {
        let ends = |wanted: fn(&Pod) -> bool| {
            self.pods.iter().filter(move |pod| wanted(pod)).map(|pod| facts::finished_at(pod))
        };
        let last_success = ends(|pod| pods::phase(pod) == "Succeeded").max();
        let failed = self.pods.iter().filter(|pod| facts::is_failed(pod, self.job));
        let since: Vec<_> = failed
            .map(|pod| facts::finished_at(pod))
            .filter(|at| last_success.is_none_or(|s| *at > s))
            .collect();
        match since.iter().max() {
            None => Duration::ZERO,
            Some(last) => facts::backoff_left(since.len(), *last, self.now),
        }
    }

    fn indexes_to_create(&self, missing: usize, completions: i32, plan: &mut Plan) -> Vec<u32> {
        let mut taken = self.succeeded_indexes.clone();
        self.active.iter().filter_map(|pod| facts::raw_index(pod)).for_each(|index| taken.add(index));
        if facts::replaces_only_failed(self.job) {
            let going =
                self.pods.iter().filter(|pod| is_terminating(pod.as_ref()) && !pods::is_finished(pod));
            going.filter_map(|pod| facts::raw_index(pod)).for_each(|index| taken.add(index));
        }
        if let Some(failed) = &self.failed_indexes {
            taken.extend(failed);
        }
        let mut indexes = taken.first_missing(missing, completions);
        // With a limit per index each index has its own pause.
        indexes.retain(|index| {
            let Some(last) = self.delayed.get(index) else { return true };
            let (counted, ignored) = facts::index_failures(last);
            let failures = usize::try_from(counted + ignored + 1).unwrap_or(1);
            let left = facts::backoff_left(failures, facts::finished_at(last), self.now);
            if !left.is_zero() {
                plan.again_after(left);
            }
            left.is_zero()
        });
        indexes
    }

    fn template(&self) -> PodTemplateSpec {
        let mut template = self.job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let finalizers = template.metadata.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|have| have == TRACKING) {
            finalizers.push(TRACKING.into());
        }
        template
    }

    fn indexed_pod(&self, index: u32) -> Pod {
        let mut template = self.template();
        if let Some(spec) = &mut template.spec {
            spec.hostname = Some(format!("{}-{index}", name(self.job)));
            spec.containers
                .iter_mut()
                .chain(spec.init_containers.iter_mut().flatten())
                .for_each(add_index_variable);
        }
        let prefix = pods::name_prefix(&format!("{}-{index}", name(self.job)));
        let mut pod = pods::from_template(&template, self.job, &prefix);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.into(), index.to_string());
        if facts::backoff_limit_per_index(self.job).is_some() {
            let (counted, ignored) = self.failures_before(index);
            annotations.insert(INDEX_FAILURES.into(), counted.to_string());
            if ignored > 0 {
                annotations.insert(INDEX_IGNORED.into(), ignored.to_string());
            }
        }
        pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
        pod
    }

    /// The failures an index' new pod starts with: those of the pod it replaces, and that pod's own.
    fn failures_before(&self, index: u32) -> (i32, i32) {
        let Some(last) = self.delayed.get(&index) else { return (0, 0) };
        let (counted, ignored) = facts::index_failures(last);
        if policy::judge(self.job, last).counts() { (counted + 1, ignored) } else { (counted, ignored + 1) }
    }
}

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

fn add_index_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    variables.push(EnvVar { name: INDEX_VARIABLE.into(), value: None, value_from: Some(source) });
}
