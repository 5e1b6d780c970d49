//! One job per time, whatever the policy, the clock and the crash.

use serde_json::{Value, json};

use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

fn cron_job(spec: Value) -> Value {
    let mut object = json!({"kind": "CronJob", "metadata": {"name": "tick", "namespace": "ns", "uid": "c",
            "creationTimestamp": "2026-06-01T11:58:30Z"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": []}}}}}});
    for (name, value) in spec.as_object().expect("an object") {
        object["spec"][name] = value.clone();
    }
    object
}

const STATUS: &str = "update /apis/batch/v1/namespaces/ns/cronjobs/tick/status";

fn create(minute: &str) -> String {
    let at: jiff::Timestamp = format!("2026-06-01T{minute}:00Z").parse().expect("a time");
    format!("create /apis/batch/v1/namespaces/ns/jobs/tick-{}\n{STATUS}", at.as_second() / 60)
}

#[test]
fn cases() {
    check(super::build, "ns/tick", &[cron_job(json!({}))], &create("12:00"));
    check(super::build, "ns/tick", &[cron_job(json!({"suspend": true}))], "");
    check(super::build, "ns/tick", &[cron_job(json!({"schedule": "0 0 * * *"}))], "");
    check(super::build, "ns/tick", &[cron_job(json!({"schedule": "x"}))], "");
    let mut served = cron_job(json!({}));
    served["status"] = json!({"lastScheduleTime": "2026-06-01T12:00:00Z"});
    check(super::build, "ns/tick", &[served], "");
}

fn job(name: &str, done: bool) -> Value {
    let mut job = json!({"kind": "Job", "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": [
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": "c", "controller": true}]},
        "spec": {"template": {"spec": {"containers": []}}}});
    if done {
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}], "startTime": "2026-06-01T11:00:00Z"});
    }
    job
}

#[test]
fn concurrency() {
    let delete = "delete /apis/batch/v1/namespaces/ns/jobs/old";
    let old = job("old", false);
    check(super::build, "ns/tick", &[cron_job(json!({"concurrencyPolicy": "Forbid"})), old.clone()], STATUS);
    let replace = cron_job(json!({"concurrencyPolicy": "Replace"}));
    check(super::build, "ns/tick", &[replace, old], &format!("{delete}\n{}", create("12:00")));
}

#[test]
fn a_clock_that_jumps_back_serves_nothing_twice() {
    let mut served = cron_job(json!({}));
    served["status"] = json!({"lastScheduleTime": "2026-06-01T12:00:00Z"});
    let objects = [served];
    let now = "2026-06-01T11:59:00Z".parse().expect("a time");
    let plan = Case { now, ..Case::new(super::build, &objects) }.plan("ns/tick");
    assert_eq!(plan.summary(), "");
}

fn finish_jobs(model: &mut Model) -> bool {
    let running = model.all("Job").into_iter().find(|job| job["status"]["conditions"].is_null());
    let Some(job) = running else { return false };
    let at = model.now.to_string();
    model.edit("Job", "ns", job["metadata"]["name"].as_str().unwrap_or(""), |job| {
        job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}], "completionTime": at, "startTime": at});
    });
    true
}

#[test]
fn every_time_is_served_once_and_history_is_kept_short() {
    let mut scenario = Scenario::new(&[super::build], &[cron_job(json!({}))]);
    scenario.surroundings = finish_jobs;
    scenario.horizon = std::time::Duration::from_secs(330);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let model = world.shared.model.lock();
    assert_eq!(model.created["Job"], 6);
    assert_eq!(model.all("Job").len(), 3, "the history limit");
    drop(model);
    check_crashes(&scenario);
}
