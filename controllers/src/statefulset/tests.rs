//! Order, partitions, storage and rollouts, whatever dies when.

use serde_json::{Value, json};

use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::nodes::run_pods;
use crate::testing::world::{Scenario, World};

fn set(spec: Value) -> Value {
    let mut set = json!({"kind": "StatefulSet", "metadata": {"name": "db", "namespace": "ns", "uid": "s"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
    for (name, value) in spec.as_object().expect("an object") {
        set["spec"][name] = value.clone();
    }
    set
}

fn scenario(spec: Value, steps: Vec<fn(&mut Model)>) -> Scenario {
    let mut scenario = Scenario::new(&[super::build], &[set(spec)]);
    scenario.steps = steps;
    scenario.surroundings = run_pods;
    scenario
}

fn pods(world: &World) -> Vec<String> {
    let pods = world.shared.model.lock().all("Pod");
    let show = |pod: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("").to_string();
        format!("{}={}", text(&pod["metadata"]["name"]), text(&pod["spec"]["containers"][0]["image"]))
    };
    pods.iter().map(show).collect()
}

fn set_image(model: &mut Model) {
    model.edit("StatefulSet", "ns", "db", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into();
    });
}

fn shrink(model: &mut Model) {
    model.edit("StatefulSet", "ns", "db", |set| set["spec"]["replicas"] = json!(1));
}

#[test]
fn pods_start_in_order() {
    let mut scenario = scenario(json!({}), vec![]);
    scenario.surroundings = |_| false;
    let mut world = World::start(&scenario, None, false);
    assert_eq!(pods(world.run()), ["db-0=a"], "the second waits for the first");
    let claims = world.shared.model.lock().all("PersistentVolumeClaim");
    assert_eq!(claims[0]["metadata"]["name"], "data-db-0");
    scenario.objects = vec![set(json!({"podManagementPolicy": "Parallel"}))];
    assert_eq!(pods(World::start(&scenario, None, false).run()).len(), 3);
}

#[test]
fn rollouts_survive_crashes() {
    let scenario = scenario(json!({}), vec![set_image, shrink]);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(pods(world.run()), ["db-0=b"]);
    assert_eq!(world.shared.model.lock().all("PersistentVolumeClaim").len(), 3, "claims are kept");
    let status = world.shared.model.lock().get("StatefulSet", "ns", "db").expect("the set")["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    check_crashes(&scenario);
}

#[test]
fn a_partition_holds_the_rest_back() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let scenario = scenario(json!({"updateStrategy": strategy}), vec![set_image]);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(pods(world.run()), ["db-0=a", "db-1=a", "db-2=b"]);
    check_crashes(&scenario);
}

#[test]
fn parallel_and_retention_survive_crashes() {
    let spec = json!({"podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}});
    let scenario = scenario(spec, vec![set_image, shrink]);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let claims = world.shared.model.lock().all("PersistentVolumeClaim");
    let owners: Vec<_> = claims.iter().map(|c| c["metadata"]["ownerReferences"][0]["kind"].clone()).collect();
    assert_eq!(owners, ["StatefulSet", "Pod", "Pod"]);
    check_crashes(&scenario);
}

#[test]
fn a_failed_pod_is_replaced() {
    let steps: Vec<fn(&mut Model)> = vec![|model| {
        model.edit("Pod", "ns", "db-1", |pod| pod["status"]["phase"] = "Failed".into());
    }];
    let scenario = scenario(json!({}), steps);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(pods(world.run()), ["db-0=a", "db-1=a", "db-2=a"]);
    check_crashes(&scenario);
}
