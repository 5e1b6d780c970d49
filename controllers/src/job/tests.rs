//! Jobs that succeed, fail, are suspended and indexed; counted once whatever dies when.

use serde_json::{Value, json};

use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

fn job(spec: Value) -> Value {
    let mut job = json!({"kind": "Job", "metadata": {"name": "work", "namespace": "ns", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 2,
            "selector": {"matchLabels": {"job-name": "work"}},
            "template": {"metadata": {"labels": {"job-name": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (name, value) in spec.as_object().expect("an object") {
        job["spec"][name] = value.clone();
    }
    job
}

fn names(pod: &Value) -> (String, String) {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or("").to_string();
    (text("namespace"), text("name"))
}

/// Nodes on which pods end at once: failing when `fails` says so.
fn end_pods(model: &mut Model, fails: impl Fn(&Value) -> bool) -> bool {
    let mut moved = false;
    for pod in model.all("Pod") {
        let (space, name) = names(&pod);
        if !pod["metadata"]["deletionTimestamp"].is_null()
            && pod["metadata"]["deletionGracePeriodSeconds"] != 0
        {
            model.vanish("Pod", &space, &name);
            moved = true;
        } else if pod["status"]["phase"] == "Pending" {
            let (phase, code) = if fails(&pod) { ("Failed", 7) } else { ("Succeeded", 0) };
            let at = model.now.to_string();
            model.edit("Pod", &space, &name, |pod| {
                pod["spec"]["nodeName"] = "n1".into();
                pod["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "",
                    "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "finishedAt": at}}}]});
            });
            moved = true;
        }
    }
    moved
}

fn succeed(model: &mut Model) -> bool {
    end_pods(model, |_| false)
}

fn fail(model: &mut Model) -> bool {
    end_pods(model, |_| true)
}

fn status(world: &World) -> Value {
    world.shared.model.lock().get("Job", "ns", "work").expect("the job")["status"].clone()
}

fn conditions(status: &Value) -> Vec<String> {
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|c| format!("{} {}", c["type"].as_str().unwrap_or(""), c["reason"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn first_runs() {
    let create = "create /api/v1/namespaces/ns/pods/work-";
    let write = "update /apis/batch/v1/namespaces/ns/jobs/work/status";
    check(super::build, "ns/work", &[job(json!({}))], &format!("{create}\n{create}\n{write}"));
    check(super::build, "ns/work", &[job(json!({"suspend": true}))], write);
    check(super::build, "ns/work", &[job(json!({"managedBy": "example.com/other"}))], "");
    let indexed = job(json!({"completionMode": "Indexed", "parallelism": 1}));
    let create = "create /api/v1/namespaces/ns/pods/work-0-";
    check(super::build, "ns/work", &[indexed], &format!("{create}\n{write}"));
}

#[test]
fn success_is_counted_once() {
    let mut scenario = Scenario::new(&[super::build], &[job(json!({}))]);
    scenario.surroundings = succeed;
    let mut world = World::start(&scenario, None, false);
    let status = status(world.run());
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(3), &Value::Null), "{status}");
    assert_eq!(conditions(&status), ["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"]);
    let tracked =
        world.shared.model.lock().all("Pod").iter().any(|pod| !pod["metadata"]["finalizers"].is_null());
    assert!(!tracked, "finalizers are gone");
    check_crashes(&scenario);
}

#[test]
fn failures_reach_the_limit() {
    let mut scenario = Scenario::new(&[super::build], &[job(json!({"parallelism": 1}))]);
    scenario.surroundings = fail;
    let mut world = World::start(&scenario, None, false);
    let status = status(world.run());
    assert_eq!(status["failed"], json!(3), "{status}");
    assert_eq!(conditions(&status), ["FailureTarget BackoffLimitExceeded", "Failed BackoffLimitExceeded"]);
    check_crashes(&scenario);
}

#[test]
fn indexed_jobs_fail_by_index() {
    let spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": 100});
    let mut scenario = Scenario::new(&[super::build], &[job(spec)]);
    scenario.surroundings = |model| {
        end_pods(model, |pod| {
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "1"
        })
    };
    let mut world = World::start(&scenario, None, false);
    let status = status(world.run());
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&json!("0,2"), &json!("1")),
        "{status}"
    );
    assert_eq!(conditions(&status), ["FailureTarget FailedIndexes", "Failed FailedIndexes"]);
    check_crashes(&scenario);
}

#[test]
fn policies_decide() {
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [7]}}]});
    let mut scenario = Scenario::new(&[super::build], &[job(json!({"podFailurePolicy": policy}))]);
    scenario.surroundings = fail;
    let status = status(World::start(&scenario, None, false).run());
    assert!(
        status["conditions"][0]["message"]
            .as_str()
            .unwrap_or("")
            .ends_with("failed with exit code 7 matching FailJob rule at index 0")
    );
    let success = json!({"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]});
    let spec = json!({"completionMode": "Indexed", "successPolicy": success, "parallelism": 1});
    let mut scenario = Scenario::new(&[super::build], &[job(spec)]);
    scenario.surroundings = succeed;
    let status = self::status(World::start(&scenario, None, false).run());
    assert_eq!(conditions(&status), ["SuccessCriteriaMet SuccessPolicy", "Complete SuccessPolicy"]);
    assert_eq!(status["succeeded"], json!(1));
}

#[test]
fn suspension_deletes_pods_uncounted() {
    let mut scenario = Scenario::new(&[super::build], &[job(json!({}))]);
    scenario.surroundings = |model| {
        let mut moved = false;
        for pod in model.all("Pod").iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
            let (space, name) = names(pod);
            model.vanish("Pod", &space, &name);
            moved = true;
        }
        moved
    };
    scenario.steps =
        vec![|model| model.edit("Job", "ns", "work", |job| job["spec"]["suspend"] = true.into())];
    let status = status(World::start(&scenario, None, false).run());
    assert_eq!((&status["failed"], &status["active"]), (&Value::Null, &Value::Null), "{status}");
    assert_eq!(conditions(&status), ["Suspended JobSuspended"]);
    check_crashes(&scenario);
}

#[test]
fn pods_of_a_deleted_job_are_released() {
    let pod = json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "finalizers": [super::TRACKING],
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "gone", "uid": "g", "controller": true}]},
        "spec": {"containers": []}});
    let plan = Case::new(super::build, &[pod]).plan("ns/pod:p");
    assert_eq!(plan.summary(), "patch /api/v1/namespaces/ns/pods/p");
}
