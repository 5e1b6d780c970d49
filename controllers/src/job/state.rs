//! Everything one run over one job knows, and the order in which its writes go out.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustc_hash::FxHashSet;

use super::indexes::Indexes;
use super::policy;
use super::{TRACKING, facts};
use crate::meta::{has_finalizer, is_terminating, uid};
use crate::pods;
use crate::runtime::{Action, Context, Failure, Pace, Plan};

/// The state of one run.
pub struct State<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its status as it shall be.
    pub status: JobStatus,
    /// Its pods.
    pub pods: Vec<Arc<Pod>>,
    /// Those that run or will run.
    pub active: Vec<Arc<Pod>>,
    /// How many are being deleted and have not ended.
    pub terminating: i32,
    /// Uids written as uncounted.
    pub uncounted: FxHashSet<String>,
    /// Successes, counted or not.
    pub succeeded: i32,
    /// Failures, counted or not.
    pub failed: i32,
    /// Indexes that were known as succeeded before this run.
    pub known_indexes: Indexes,
    /// Indexes that have succeeded.
    pub succeeded_indexes: Indexes,
    /// Indexes that have failed for good.
    pub failed_indexes: Option<Indexes>,
    /// The last failed pod of each index that waits for a replacement.
    pub delayed: BTreeMap<u32, Arc<Pod>>,
    /// The wall clock.
    pub now: Timestamp,
    /// The failure of the previous run.
    pub failure: Option<&'a Failure>,
}

impl<'a> State<'a> {
    /// Looks at a job and its pods.
    pub fn new(job: &'a Job, pods: Vec<Arc<Pod>>, context: &'a Context<'a>) -> Self {
        let mut status = job.status.clone().unwrap_or_default();
        let written = status.uncounted_terminated_pods.get_or_insert_default();
        let lists = written.succeeded.iter().flatten().chain(written.failed.iter().flatten());
        let uncounted: FxHashSet<String> = lists.cloned().collect();
        let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let terminating =
            pods.iter().filter(|pod| is_terminating(pod.as_ref()) && !pods::is_finished(pod)).count();
        let mut state = Self {
            job,
            status,
            active,
            terminating: count(terminating),
            uncounted,
            succeeded: 0,
            failed: 0,
            known_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            now: context.now,
            failure: context.failure,
            pods,
        };
        state.pods.sort_by_cached_key(|pod| (facts::raw_index(pod), pod.metadata.name.clone()));
        state.count();
        state.count_indexes();
        state
    }

    /// Whether a pod's end is not in the status yet in any form.
    pub fn is_new(&self, pod: &Pod) -> bool {
        let counts = !facts::is_indexed(self.job) || facts::index(pod, self.job).is_some();
        counts && has_finalizer(&pod.metadata, TRACKING) && !self.uncounted.contains(uid(pod))
    }

    fn count(&mut self) {
        let (job, written) = (self.job, self.status.uncounted_terminated_pods.clone().unwrap_or_default());
        let new = || self.pods.iter().filter(|pod| self.is_new(pod));
        let succeeded = new().filter(|pod| pods::phase(pod) == "Succeeded").count();
        let failed =
            new().filter(|pod| facts::is_failed(pod, job) && policy::judge(job, pod).counts()).count();
        let listed = |list: &Option<Vec<String>>| count(list.as_ref().map_or(0, Vec::len));
        self.succeeded = self.status.succeeded.unwrap_or(0) + count(succeeded) + listed(&written.succeeded);
        self.failed = self.status.failed.unwrap_or(0) + count(failed) + listed(&written.failed);
    }

    fn count_indexes(&mut self) {
        let (job, Some(completions)) = (self.job, facts::completions(self.job)) else { return };
        if !facts::is_indexed(job) {
            return;
        }
        self.known_indexes =
            Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or(""), completions);
        self.succeeded_indexes = self.known_indexes.clone();
        for pod in self.pods.iter().filter(|pod| pods::phase(pod) == "Succeeded") {
            if has_finalizer(&pod.metadata, TRACKING)
                && let Some(index) = facts::index(pod, job)
            {
                self.succeeded_indexes.add(index);
            }
        }
        self.succeeded = self.succeeded_indexes.total();
        let Some(limit) = facts::backoff_limit_per_index(job) else { return };
        let mut failed = Indexes::parse(self.status.failed_indexes.as_deref().unwrap_or(""), completions);
        for pod in self
            .pods
            .iter()
            .filter(|pod| has_finalizer(&pod.metadata, TRACKING) && facts::is_failed(pod, job))
        {
            let Some(index) = facts::index(pod, job) else { continue };
            let verdict = policy::judge(job, pod);
            let spent = verdict.counts() && facts::index_failures(pod).0 >= limit;
            if spent || verdict == policy::Verdict::FailIndex {
                failed.add(index);
            }
        }
        self.delayed = self.delayed_pods(&failed);
        self.failed_indexes = Some(failed);
    }

    /// Failed pods kept until their replacement has taken over the index' count of failures.
    fn delayed_pods(&self, failed: &Indexes) -> BTreeMap<u32, Arc<Pod>> {
        let active: FxHashSet<u32> = self.active.iter().filter_map(|pod| facts::raw_index(pod)).collect();
        let mut delayed: BTreeMap<u32, Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING)) {
            let Some(index) = facts::index(pod, self.job).filter(|_| facts::is_failed(pod, self.job)) else {
                continue;
            };
            if active.contains(&index) || failed.has(index) || self.succeeded_indexes.has(index) {
                continue;
            }
            let age = |pod: &Pod| {
                let (counted, ignored) = facts::index_failures(pod);
                (counted + ignored, facts::finished_at(pod))
            };
            if delayed.get(&index).is_none_or(|have| age(have) <= age(pod)) {
                delayed.insert(index, pod.clone());
            }
        }
        delayed
    }

    /// Decides everything.
    pub fn plan(mut self) -> Plan {
        let mut plan = Plan::nothing();
        if self.status.start_time.is_none() && !facts::is_suspended(self.job) {
            self.status.start_time = Some(Time(self.now));
        }
        let ending = self.ending(&mut plan);
        // After a failure nothing is foretold: what fails again would leave a wrong status behind.
        let foretell = self.failure.is_none();
        let mut managed = self.manage(ending.is_some(), &mut plan);
        let active = count(self.active.len()) + if foretell { managed.created - managed.deleted } else { 0 };
        let mut ready = count(self.active.iter().filter(|pod| pods::is_ready(pod)).count());
        let mut terminating = self.terminating;
        if foretell {
            ready -= managed.deleted_ready;
            terminating += managed.deleted_bound;
        }
        let ending = ending.or_else(|| self.completion(active, &managed));
        self.note_suspension(ending.is_some(), &mut plan);
        self.status.active = Some(active).filter(|count| *count != 0);
        self.status.ready = Some(ready);
        self.status.terminating = Some(terminating);
        let removals = self.track(ending, terminating, &managed, &mut plan);
        let write = self.write();
        if foretell {
            managed.batches.drain(..).for_each(|(pace, actions)| plan.act_all(pace, actions));
        }
        write.into_iter().for_each(|action| plan.act(action));
        plan.act_all(Pace::Parallel, removals);
        managed.batches.into_iter().for_each(|(pace, actions)| plan.act_all(pace, actions));
        plan
    }

    fn write(&self) -> Option<Action> {
        let mut old = self.job.status.clone().unwrap_or_default();
        let mut new = self.status.clone();
        // Absent and zero or empty are the same on the wire.
        for status in [&mut old, &mut new] {
            status.active = status.active.filter(|count| *count != 0);
            status.succeeded = status.succeeded.filter(|count| *count != 0);
            status.failed = status.failed.filter(|count| *count != 0);
            status.completed_indexes = status.completed_indexes.take().filter(|text| !text.is_empty());
            let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
            uncounted.succeeded = uncounted.succeeded.take().filter(|list| !list.is_empty());
            uncounted.failed = uncounted.failed.take().filter(|list| !list.is_empty());
        }
        (old != new).then(|| Action::update_status(&Job { status: Some(new), ..self.job.clone() }))
    }

    /// Adds or replaces a condition. Returns whether that changed anything.
    pub fn set_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) -> bool {
        let conditions = self.status.conditions.get_or_insert_default();
        let new = JobCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match conditions.iter_mut().find(|have| have.type_ == kind) {
            Some(have) if have.status == value && have.reason.as_deref() == Some(reason) => false,
            Some(have) => {
                *have = new;
                true
            }
            // A condition that was never true is not worth a word.
            None if value == "False" => false,
            None => {
                conditions.push(new);
                true
            }
        }
    }
}

/// A length as the API's 32-bit count.
pub fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
