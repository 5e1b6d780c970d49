//! Deletes finished jobs once their time to live is over, after a last look at the API server that it really is.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::job::facts;
use crate::meta::{is_terminating, uid};
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Gvr, Key, Plan, Propagation, ReconcileError, Store, Verb,
    Wiring, clock,
};

struct TtlAfterFinished {
    jobs: Store<Job>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let jobs = wiring.on::<Job>(|change, queue| {
        if let Some(job) = change.new.as_ref().filter(|job| expires_at(job).is_some()) {
            queue.add(Key::of(job.as_ref()));
        }
    });
    Box::new(TtlAfterFinished { jobs, workers: wiring.options().workers.ttl_after_finished })
}

/// When a job's time is over; `None` for those that stay or still run.
fn expires_at(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = facts::condition(job, "Complete").or_else(|| facts::condition(job, "Failed"))?;
    let at = finished.last_transition_time.as_ref()?.0;
    Some(clock::add(at, Duration::from_secs(u64::try_from(ttl).unwrap_or(0))))
}

impl Controller for TtlAfterFinished {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(job) = self.jobs.get(key).filter(|job| !is_terminating(job.as_ref())) else {
            return Ok(plan);
        };
        let Some(expires) = expires_at(&job) else { return Ok(plan) };
        let left = clock::until(expires, context.now);
        if !left.is_zero() {
            plan.again_after(left);
            return Ok(plan);
        }
        // The cache may be old, and the time to live may have been raised meanwhile.
        let ask = Ask::Get(Gvr::of::<Job>().object(&key.namespace, &key.name));
        let live = match context.answer(&ask) {
            None => return Ok(plan.ask(ask)),
            Some(Answer::Json(live)) => serde_json::from_value::<Job>(live.as_ref().clone()).ok(),
            Some(Answer::Failed(failure)) if !failure.is_not_found() => {
                plan.problem = Some(failure.clone());
                return Ok(plan);
            }
            Some(_) => None,
        };
        let Some(live) = live.filter(|live| uid(live) == uid(job.as_ref())) else { return Ok(plan) };
        if expires_at(&live).is_some_and(|expires| expires <= context.now) {
            let mut action = Action::delete(&live).propagating(Propagation::Foreground);
            if let Verb::Delete { resource_version, .. } = &mut action.verb {
                *resource_version = live.metadata.resource_version.clone();
            }
            plan.act(action);
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};
    use crate::testing::{Case, check};

    fn job(ttl: Value) -> Value {
        json!({"kind": "Job", "metadata": {"name": "j", "namespace": "ns"},
            "spec": {"ttlSecondsAfterFinished": ttl, "template": {"spec": {"containers": []}}},
            "status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": crate::testing::NOW}]}})
    }

    #[test]
    fn cases() {
        check(super::build, "ns/j", &[job(Value::Null)], "");
        let waiting = Case::new(super::build, &[job(json!(60))]).plan("ns/j");
        assert_eq!(waiting.again_after, Some(std::time::Duration::from_secs(60)));
    }

    #[test]
    fn a_clock_that_jumps_delays_or_obeys_the_new_time() {
        let objects = [job(json!(60))];
        let at = |now: &str| {
            let now = now.parse().expect("a time");
            Case { now, ..Case::new(super::build, &objects) }.plan("ns/j")
        };
        let back = at("2026-06-01T11:00:00Z");
        assert_eq!((back.actions().count(), back.again_after.map(|left| left.as_secs())), (0, Some(3660)));
        assert_eq!(at("2026-06-01T13:00:00Z").asks.len(), 1, "the API server is asked before anything goes");
    }

    #[test]
    fn expired_jobs_go_whatever_dies() {
        let scenario = Scenario::new(&[super::build], &[job(json!(60))]);
        let mut world = World::start(&scenario, None, false);
        world.run();
        let jobs = world.shared.model.lock().all("Job");
        assert!(jobs.iter().all(|job| !job["metadata"]["deletionTimestamp"].is_null()), "{jobs:?}");
        check_crashes(&scenario);
    }
}
