//! CronJobs: a job per scheduled time. The job's name is made of the time, so that no time is served twice whatever
//! dies when, and the status is what the jobs there are say it is.

pub mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use self::schedule::{Due, Missed, Schedule};
use crate::job::facts;
use crate::meta::{is_controlled_by, is_terminating, name, namespace, owner_reference, uid};
use crate::runtime::plan::reference_to;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Gvr, Key, Note, Pace, Plan, Propagation, ReconcileError, Store,
    Wiring, clock,
};

/// Annotation of a job: the time it was scheduled for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A little after the scheduled time, so that clocks that differ by less agree that it has come (upstream's).
const DELTA: Duration = Duration::from_millis(100);

struct CronJobs {
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let jobs = wiring.on_owned::<Job, CronJob>();
    let workers = wiring.options().workers.cronjob;
    Box::new(CronJobs { cron_jobs: wiring.on_self::<CronJob>(), jobs, workers })
}

impl Controller for CronJobs {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let Some(cron_job) = self.cron_jobs.get(key) else { return Ok(Plan::nothing()) };
        let spec = &cron_job.spec;
        let jobs = self.jobs.owned_by(uid(cron_job.as_ref()));
        let mut run = Run {
            spec,
            cron_job: cron_job.as_ref().clone(),
            jobs,
            context,
            plan: Plan::nothing(),
            asks: Vec::new(),
        };
        run.sync_active();
        run.clean_up_history();
        if !is_terminating(cron_job.as_ref()) {
            run.schedule();
        }
        if !run.asks.is_empty() {
            return Ok(Plan { asks: run.asks, ..Plan::nothing() });
        }
        if run.cron_job != *cron_job {
            run.plan.act(Action::update_status(&run.cron_job));
        }
        Ok(run.plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

struct Run<'a> {
    spec: &'a CronJobSpec,
    cron_job: CronJob,
    jobs: Vec<Arc<Job>>,
    context: &'a Context<'a>,
    plan: Plan,
    asks: Vec<Ask>,
}

impl Run<'_> {
    fn warn(&mut self, reason: &str, message: String) {
        self.plan.note(Note::warning(&self.cron_job, reason, message));
    }

    fn tell(&mut self, reason: &str, message: String) {
        self.plan.note(Note::normal(&self.cron_job, reason, message));
    }

    fn active(&mut self) -> &mut Vec<ObjectReference> {
        self.cron_job.status.get_or_insert_default().active.get_or_insert_default()
    }

    /// The list of active jobs follows the jobs there are.
    fn sync_active(&mut self) {
        for job in self.jobs.clone() {
            let listed = self.active().iter().any(|active| active.uid.as_deref() == Some(uid(job.as_ref())));
            if !facts::is_finished(&job) {
                if !listed {
                    self.active().push(reference_to(job.as_ref()));
                }
                continue;
            }
            if listed {
                self.active().retain(|active| active.uid.as_deref() != Some(uid(job.as_ref())));
                let how = if facts::condition(&job, "Complete").is_some() { "Complete" } else { "Failed" };
                self.tell(
                    "SawCompletedJob",
                    format!("Saw completed job: {}, condition: {how}", name(job.as_ref())),
                );
            }
            self.note_success(&job);
        }
        let jobs = self.jobs.clone();
        let known: Vec<&str> = jobs.iter().map(|job| uid(job.as_ref())).collect();
        let active =
            self.cron_job.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default();
        for lost in active.iter().filter(|active| !known.contains(&active.uid.as_deref().unwrap_or(""))) {
            let lost_name = lost.name.clone().unwrap_or_default();
            self.tell("MissingJob", format!("Active job went missing: {lost_name}"));
            self.active().retain(|active| active.uid != lost.uid);
        }
        if let Some(status) = &mut self.cron_job.status {
            status.active = status.active.take().filter(|active| !active.is_empty());
        }
    }

    fn note_success(&mut self, job: &Job) {
        let ended = job.status.as_ref().and_then(|status| status.completion_time.clone());
        let (Some(ended), true) = (ended, facts::condition(job, "Complete").is_some()) else { return };
        let last = &mut self.cron_job.status.get_or_insert_default().last_successful_time;
        if last.as_ref().is_none_or(|last| last.0 < ended.0) {
            *last = Some(ended);
        }
    }

    fn clean_up_history(&mut self) {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (condition, limit) in limits {
            let finished = self.jobs.iter().filter(|job| facts::condition(job, condition).is_some());
            let mut finished: Vec<Arc<Job>> =
                finished.filter(|job| !is_terminating(job.as_ref())).cloned().collect();
            let started =
                |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref().map(|at| at.0));
            finished.sort_by_key(|job| (started(job), name(job.as_ref()).to_string()));
            let excess = finished.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
            let doomed = finished.iter().take(excess).map(|job| self.delete(job)).collect();
            self.plan.act_all(Pace::Parallel, doomed);
        }
    }

    fn delete(&self, job: &Job) -> Action {
        let told = format!("Deleted job {}", name(job));
        Action::delete(job)
            .propagating(Propagation::Background)
            .noting(Note::normal(&self.cron_job, "SuccessfulDelete", told))
            .noting_failure(Note::warning(&self.cron_job, "FailedDelete", "Deleted job: {error}"))
    }

    fn schedule(&mut self) {
        let zone = match schedule::zone(self.spec.time_zone.as_deref()) {
            Ok(zone) => zone,
            Err(why) => {
                let named = self.spec.time_zone.clone().unwrap_or_default();
                return self.warn("UnknownTimeZone", format!("invalid timeZone: {named:?}: {why}"));
            }
        };
        if self.spec.suspend == Some(true) {
            return;
        }
        let schedule = match Schedule::parse(&self.spec.schedule, zone) {
            Ok(schedule) => schedule,
            Err(why) => {
                let text = self.spec.schedule.clone();
                return self.warn("UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
            }
        };
        if let Some(next) = schedule.next_after(self.context.now) {
            self.plan.again_after(clock::until(next, self.context.now) + DELTA);
        }
        let Due { at, missed } = self.due(&schedule);
        if missed == Missed::Many {
            self.warn(
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew".into(),
            );
        }
        if let Some(at) = at {
            self.start(at, &schedule);
        }
    }

    fn due(&self, schedule: &Schedule) -> Due {
        let created = self.cron_job.metadata.creation_timestamp.as_ref().map_or(self.context.now, |at| at.0);
        let last = self
            .cron_job
            .status
            .as_ref()
            .and_then(|status| status.last_schedule_time.as_ref().map(|at| at.0));
        let mut since = last.unwrap_or(created);
        if let Some(secs) = self.spec.starting_deadline_seconds {
            let window = jiff::SignedDuration::from_secs(secs);
            since = since.max(self.context.now.checked_sub(window).unwrap_or(since));
        }
        schedule.due(since, self.context.now)
    }

    fn start(&mut self, at: Timestamp, schedule: &Schedule) {
        let status = self.cron_job.status.clone().unwrap_or_default();
        let active = status.active.unwrap_or_default();
        let job_name = schedule::job_name(name(&self.cron_job), at);
        let listed = active.iter().any(|active| active.name.as_deref() == Some(job_name.as_str()));
        if listed || status.last_schedule_time.is_some_and(|last| last.0 == at) {
            return;
        }
        let policy = self.spec.concurrency_policy.as_deref().unwrap_or("Allow");
        if policy == "Forbid" && !active.is_empty() {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return self.tell("JobAlreadyActive", why.into());
        }
        if !self.job_is_ours_or_free(&job_name) {
            return;
        }
        if policy == "Replace" {
            let running: Vec<_> = self.jobs.iter().filter(|job| !facts::is_finished(job)).cloned().collect();
            for job in running {
                let action = self.delete(&job);
                self.plan.act(action);
                self.active().retain(|active| active.uid.as_deref() != Some(uid(job.as_ref())));
            }
        }
        if !self.jobs.iter().any(|job| name(job.as_ref()) == job_name) {
            let job = self.job(job_name, at, schedule);
            let action = Action::create(&job)
                .noting(Note::normal(&self.cron_job, "SuccessfulCreate", "Created job {name}"))
                .noting_failure(Note::warning(&self.cron_job, "FailedCreate", "Error creating job: {error}"));
            self.plan.act(action);
        }
        self.cron_job.status.get_or_insert_default().last_schedule_time = Some(Time(at));
    }

    /// After a name was found taken: whether it was by a job of ours (then the time has been served).
    fn job_is_ours_or_free(&mut self, job_name: &str) -> bool {
        if !self.context.failure.is_some_and(|failure| failure.creating && failure.code == 409) {
            return true;
        }
        let ask = Ask::Get(Gvr::of::<Job>().object(namespace(&self.cron_job), job_name));
        match self.context.answer(&ask) {
            None => {
                self.asks.push(ask);
                false
            }
            Some(Answer::Json(taken)) => {
                let taken: Option<Job> = serde_json::from_value(taken.as_ref().clone()).ok();
                taken.is_some_and(|job| is_controlled_by(&job.metadata, &self.cron_job.metadata))
            }
            Some(_) => true,
        }
    }

    fn job(&self, job_name: String, at: Timestamp, schedule: &Schedule) -> Job {
        let template = self.spec.job_template.metadata.clone().unwrap_or_default();
        let mut annotations = template.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.into(), schedule.local_text(at));
        Job {
            metadata: ObjectMeta {
                name: Some(job_name),
                namespace: self.cron_job.metadata.namespace.clone(),
                labels: template.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![owner_reference(&self.cron_job)]),
                ..ObjectMeta::default()
            },
            spec: self.spec.job_template.spec.clone(),
            status: None,
        }
    }
}
