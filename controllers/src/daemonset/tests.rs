//! A pod per suitable node, rollouts within limits, whatever dies when.

use serde_json::{Value, json};

use crate::testing::check;
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::nodes::run_pods as nodes;
use crate::testing::world::{Scenario, World};

fn set(strategy: Value) -> Value {
    json!({"kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "ns", "uid": "d"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"nodeSelector": {"role": "worker"}, "containers": [{"name": "c", "image": "a"}]}}}})
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn node(name: &str, taints: Value) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {"role": "worker"}}, "spec": {"taints": taints}})
}

fn cluster() -> Vec<Value> {
    let mut nodes: Vec<Value> = ["n1", "n2", "n3"].iter().map(|name| node(name, Value::Null)).collect();
    nodes.push(node("tainted", json!([{"key": "k", "effect": "NoSchedule"}])));
    nodes.push(node("lost", json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])));
    nodes.push(json!({"kind": "Node", "metadata": {"name": "other"}}));
    nodes
}

#[test]
fn suitable_nodes_get_pods() {
    let mut objects = cluster();
    objects.push(set(rolling(0, 1)));
    let create = "create /api/v1/namespaces/ns/pods/agent-";
    let revision = crate::testing::Case::new(super::build, &objects).plan("ns/agent");
    let lines = revision.summary();
    assert!(lines.starts_with("create /apis/apps/v1/namespaces/ns/controllerrevisions/agent-"), "{lines}");
    assert_eq!(lines.matches(create).count(), 4, "{lines}");
    let mut empty = set(rolling(0, 1));
    empty["spec"]["selector"] = json!({});
    check(super::build, "ns/agent", &[empty], "");
}

fn set_image(model: &mut Model) {
    model.edit("DaemonSet", "ns", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into();
    });
}

fn scenario(strategy: Value, steps: Vec<fn(&mut Model)>) -> Scenario {
    let mut objects = cluster();
    objects.push(set(strategy));
    let mut scenario = Scenario::new(&[super::build], &objects);
    scenario.steps = steps;
    scenario.surroundings = nodes;
    scenario
}

fn images(world: &World) -> Vec<String> {
    let pods = world.shared.model.lock().all("Pod");
    pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or("").to_string()).collect()
}

#[test]
fn rolling_and_surging_survive_crashes() {
    for strategy in [rolling(0, 1), rolling(1, 0)] {
        let scenario = scenario(strategy, vec![set_image]);
        let mut world = World::start(&scenario, None, false);
        world.run();
        assert_eq!(images(&world), ["b"; 4]);
        let status =
            world.shared.model.lock().get("DaemonSet", "ns", "agent").expect("the set")["status"].clone();
        assert_eq!((&status["updatedNumberScheduled"], &status["numberAvailable"]), (&json!(4), &json!(4)));
        check_crashes(&scenario);
    }
}

#[test]
fn on_delete_waits_for_the_user() {
    let scenario = scenario(json!({"type": "OnDelete"}), vec![set_image]);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(images(world.run()), ["a"; 4]);
}

#[test]
fn pods_follow_the_nodes() {
    let steps: Vec<fn(&mut Model)> = vec![|model| {
        model.edit("Node", "", "n1", |node| node["metadata"]["labels"] = Value::Null);
        model.apply(node("n9", Value::Null));
    }];
    let scenario = scenario(rolling(0, 1), steps);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(images(world.run()).len(), 4);
    check_crashes(&scenario);
}

#[test]
fn a_failed_pod_is_replaced() {
    let steps: Vec<fn(&mut Model)> = vec![|model| {
        let pod = model.all("Pod").remove(0);
        let name = pod["metadata"]["name"].as_str().unwrap_or("").to_string();
        model.edit("Pod", "ns", &name, |pod| pod["status"]["phase"] = "Failed".into());
    }];
    let scenario = scenario(rolling(0, 1), steps);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(images(world.run()).len(), 4);
    let running = world.shared.model.lock().all("Pod").iter().all(|pod| pod["status"]["phase"] == "Running");
    assert!(running);
    check_crashes(&scenario);
}
