//! Counting pods exactly once: uids into the status, finalizers off the pods, uids out of the status and into the
//! counters. Each step is safe to repeat, and no step happens before the one it rests on is written.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rustc_hash::FxHashSet;

use super::finish::Ending;
use super::manage::Managed;
use super::policy;
use super::state::{State, count};
use super::{TRACKING, facts, remove_finalizer};
use crate::meta::{has_finalizer, is_terminating, uid};
use crate::pods;
use crate::runtime::{Action, Note, Plan};

/// Uids in the status at most: about 20 kB, and a bound on the work of one run (upstream's MaxUncountedPods).
const UNCOUNTED_MAX: usize = 500;

impl State<'_> {
    /// Brings the counting forward one step. Returns the finalizer removals that may follow the status write.
    pub fn track(
        &mut self,
        ending: Option<Ending>,
        terminating: i32,
        managed: &Managed,
        plan: &mut Plan,
    ) -> Vec<Action> {
        self.settle_counted();
        let (removals, complete) = self.count_ended(ending.as_ref());
        self.write_indexes();
        if let Some(ending) = ending {
            self.set_condition(ending.interim(), "True", &ending.reason, &ending.message);
            let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
            let listed = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
            let all_counted = listed(&uncounted.succeeded) + listed(&uncounted.failed) == 0;
            let quiet = removals.is_empty() && managed.deleted == 0 && terminating == 0;
            if complete && all_counted && quiet {
                self.conclude(&ending, plan);
            }
        }
        removals
    }

    /// Uids whose pods carry no finalizer any more become counts.
    fn settle_counted(&mut self) {
        let tracked = self.pods.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING));
        let tracked: FxHashSet<&str> = tracked.map(|pod| uid(pod.as_ref())).collect();
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        let settle = |list: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
            let Some(uids) = list else { return };
            let before = uids.len();
            uids.retain(|uid| tracked.contains(uid.as_str()));
            *counter = Some(counter.unwrap_or(0) + count(before - uids.len())).filter(|count| *count != 0);
        };
        settle(&mut uncounted.succeeded, &mut self.status.succeeded);
        settle(&mut uncounted.failed, &mut self.status.failed);
    }

    /// Ended pods go onto the lists. Returns their finalizer removals, and whether all of them found room.
    fn count_ended(&mut self, ending: Option<&Ending>) -> (Vec<Action>, bool) {
        let mut removals = Vec::new();
        let mut listed = 0;
        let pods: Vec<Arc<Pod>> = self.pods.clone();
        for pod in pods.iter().filter(|pod| has_finalizer(&pod.metadata, TRACKING)) {
            let failed = facts::is_failed(pod, self.job);
            if !self.may_release(pod, failed, ending.is_some()) {
                continue;
            }
            removals.push(remove_finalizer(pod));
            let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
            let uid = uid(pod.as_ref()).to_string();
            let listed_before = self.uncounted.contains(&uid);
            if pods::phase(pod) == "Succeeded" {
                if !facts::is_indexed(self.job) && !listed_before {
                    uncounted.succeeded.get_or_insert_default().push(uid);
                }
            } else if (failed || ending.is_some_and(|ending| !ending.success))
                && !listed_before
                && (!facts::is_indexed(self.job) || facts::index(pod, self.job).is_some())
                && policy::judge(self.job, pod).counts()
            {
                uncounted.failed.get_or_insert_default().push(uid);
            }
            listed += 1;
            if listed >= UNCOUNTED_MAX {
                return (removals, false);
            }
        }
        (removals, true)
    }

    fn may_release(&self, pod: &Pod, failed: bool, ending: bool) -> bool {
        if is_terminating(self.job) || ending || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let waits = || {
            let index = facts::raw_index(pod)?;
            Some(uid(self.delayed.get(&index)?.as_ref()) == uid(pod))
        };
        failed && waits() != Some(true)
    }

    fn write_indexes(&mut self) {
        if !facts::is_indexed(self.job) {
            return;
        }
        self.status.succeeded = Some(self.succeeded_indexes.total());
        self.status.completed_indexes = Some(self.succeeded_indexes.to_string());
        self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
    }

    fn conclude(&mut self, ending: &Ending, plan: &mut Plan) {
        self.set_condition(ending.last(), "True", &ending.reason, &ending.message);
        if !ending.success {
            plan.note(Note::warning(self.job, &ending.reason, ending.message.clone()));
            return;
        }
        self.status.completion_time = Some(Time(self.now));
        let wanted = facts::completions(self.job);
        if wanted.is_some_and(|wanted| self.status.succeeded.unwrap_or(0) > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            plan.note(Note::warning(self.job, "TooManySucceededPods", message));
        }
        plan.note(Note::normal(self.job, "Completed", "Job completed"));
    }
}
