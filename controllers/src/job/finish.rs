//! Is the job over, and why: failure first, then success. A decision is written as an interim condition
//! (`FailureTarget`, `SuccessCriteriaMet`) before anything follows from it, and the final one (`Failed`, `Complete`)
//! once every pod is counted and gone.

use std::time::Duration;

use k8s_openapi::api::batch::v1::JobCondition;

use super::manage::Managed;
use super::policy;
use super::state::State;
use super::{facts, indexes::Indexes};
use crate::pods;
use crate::runtime::{Note, Plan, clock};

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Whether it has succeeded.
    pub success: bool,
    /// Such as `BackoffLimitExceeded`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Ending {
    fn failure(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(Self { success: false, reason: reason.into(), message: message.into() })
    }

    fn success(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(Self { success: true, reason: reason.into(), message: message.into() })
    }

    fn again(condition: &JobCondition, success: bool) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { success, reason: text(&condition.reason), message: text(&condition.message) }
    }

    /// The interim condition.
    pub fn interim(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    /// The final condition.
    pub fn last(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

impl State<'_> {
    /// Why the job must end now, whatever its pods still do.
    pub fn ending(&self, plan: &mut Plan) -> Option<Ending> {
        if let Some(met) = facts::condition(self.job, "SuccessCriteriaMet") {
            return Some(Ending::again(met, true));
        }
        if let Some(target) = facts::condition(self.job, "FailureTarget") {
            return Some(Ending::again(target, false));
        }
        if let Some(message) = policy::fail_job_message(self.job, &self.pods) {
            return Ending::failure("PodFailurePolicy", message);
        }
        if self.failed > facts::backoff_limit(self.job) || self.restarts_exceed() {
            return Ending::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.past_deadline(plan) {
            return Ending::failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        self.index_ending()
    }

    fn index_ending(&self) -> Option<Ending> {
        let completions = facts::completions(self.job).filter(|_| facts::is_indexed(self.job))?;
        if let Some(failed) = self.failed_indexes.as_ref().map(Indexes::total).filter(|failed| *failed > 0) {
            let most = self.job.spec.as_ref().and_then(|spec| spec.max_failed_indexes);
            if most.is_some_and(|most| failed > most) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Ending::failure("MaxFailedIndexesExceeded", message);
            }
            if failed + self.succeeded_indexes.total() >= completions {
                return Ending::failure("FailedIndexes", "Job has failed indexes");
            }
        }
        let message = policy::success_message(self.job, &self.succeeded_indexes)?;
        Ending::success("SuccessPolicy", message)
    }

    /// Success by enough completed pods, once none is left running.
    pub fn completion(&self, active: i32, managed: &Managed) -> Option<Ending> {
        let done = match facts::completions(self.job) {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= wanted,
        };
        // Deletions that are not acknowledged yet leave pods running.
        if !done || active > 0 || managed.deleted > 0 {
            return None;
        }
        Ending::success("CompletionsReached", "Reached expected number of succeeded pods")
    }

    /// Restarts of containers count too where pods restart them themselves.
    fn restarts_exceed(&self) -> bool {
        let template = self.job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        let limit = facts::backoff_limit(self.job);
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn past_deadline(&self, plan: &mut Plan) -> bool {
        let deadline = self.job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let (Some(deadline), Some(started)) = (deadline, &self.status.start_time) else { return false };
        if facts::is_suspended(self.job) {
            return false;
        }
        let ends = clock::add(started.0, Duration::from_secs(u64::try_from(deadline).unwrap_or(0)));
        let left = clock::until(ends, self.now);
        if !left.is_zero() {
            plan.again_after(left);
        }
        left.is_zero()
    }

    /// Tells that the job was suspended or resumed; resuming starts its clock anew.
    pub fn note_suspension(&mut self, ending: bool, plan: &mut Plan) {
        if ending || crate::meta::is_terminating(self.job) {
            return;
        }
        if facts::is_suspended(self.job) {
            if self.set_condition("Suspended", "True", "JobSuspended", "Job suspended") {
                self.status.start_time = None;
                plan.note(Note::normal(self.job, "Suspended", "Job suspended"));
            }
        } else if self.set_condition("Suspended", "False", "JobResumed", "Job resumed") {
            self.status.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
            plan.note(Note::normal(self.job, "Resumed", "Job resumed"));
        }
    }
}
