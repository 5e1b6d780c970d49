//! The right number of pods, adoption, release, order of deletion, and nothing made twice.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::runtime::{Answer, Build, Failure};
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::nodes::run_pods;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

fn set(replicas: i32) -> Value {
    json!({"kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "ns", "uid": "r", "resourceVersion": "1"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}}}})
}

fn pod(name: &str, labels: Value, owned: bool) -> Value {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": labels},
        "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}});
    if owned {
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "r", "controller": true}]);
    }
    pod
}

const CREATE: &str = "create /api/v1/namespaces/ns/pods/rs-";
const STATUS: &str = "update /apis/apps/v1/namespaces/ns/replicasets/rs/status";

#[test]
fn numbers() {
    let ours = |name: &str| pod(name, json!({"app": "a"}), true);
    check(super::build, "ns/rs", &[set(2)], &format!("{CREATE}\n{CREATE}\n{STATUS}"));
    let surplus = format!("delete /api/v1/namespaces/ns/pods/b\n{STATUS}");
    let mut pending = ours("b");
    pending["spec"]["nodeName"] = Value::Null;
    check(super::build, "ns/rs", &[set(1), ours("a"), pending], &surplus);
    check(super::build, "ns/rs", &[ours("a")], "");
}

#[test]
fn adoption_asks_whether_the_owner_lives() {
    let objects = [set(1), pod("stray", json!({"app": "a"}), false)];
    let asked = Case::new(super::build, &objects).plan("ns/rs");
    let ask = asked.asks[0].clone();
    let cases = [
        (json!({"metadata": {"uid": "r"}}), format!("patch /api/v1/namespaces/ns/pods/stray\n{STATUS}")),
        (json!({"metadata": {"uid": "another"}}), format!("{CREATE}\n{STATUS}")),
    ];
    for (live, expected) in cases {
        let answers = vec![(ask.clone(), Answer::Json(Arc::new(live.clone())))];
        let plan = Case { answers, ..Case::new(super::build, &objects) }.plan("ns/rs");
        assert_eq!(plan.summary(), expected, "{live}");
    }
}

#[test]
fn pods_that_no_longer_match_are_released() {
    let objects = [set(1), pod("a", json!({"app": "other"}), true)];
    let expected = format!("patch /api/v1/namespaces/ns/pods/a\n{CREATE}\n{STATUS}");
    check(super::build, "ns/rs", &objects, &expected);
}

#[test]
fn a_failure_is_told_before_the_next_try() {
    let failure =
        Failure { code: 403, reason: "Forbidden".into(), message: "exceeded quota".into(), creating: true };
    let objects = [set(1)];
    let plan = Case { failure: Some(failure), ..Case::new(super::build, &objects) }.plan("ns/rs");
    assert_eq!(plan.summary(), format!("{STATUS}\n{CREATE}"));
    assert!(format!("{:?}", plan.actions().next()).contains("FailedCreate"));
}

fn shrink(model: &mut Model) {
    for kind in ["ReplicaSet", "ReplicationController"] {
        model.edit(kind, "ns", "rs", |set| set["spec"]["replicas"] = json!(2));
    }
    model.vanish("Pod", "ns", "stray");
}

#[test]
fn both_kinds_survive_crashes() {
    let mut controller = set(5);
    controller["kind"] = "ReplicationController".into();
    controller["spec"]["selector"] = json!({"app": "a"});
    let kinds: [(Value, Build); 2] =
        [(set(5), super::build), (controller, super::build_replication_controller)];
    for (owner, build) in kinds {
        let mut scenario = Scenario::new(&[build], &[owner, pod("stray", json!({"app": "a"}), false)]);
        scenario.surroundings = run_pods;
        scenario.steps = vec![shrink];
        let mut world = World::start(&scenario, None, false);
        assert_eq!(world.run().shared.model.lock().all("Pod").len(), 2);
        check_crashes(&scenario);
    }
}
