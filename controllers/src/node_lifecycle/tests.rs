//! Silence, taints, and no verdict that a restart or a jumping clock could hasten.

use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};

fn node(name: &str, ready: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-06-01T11:59:59Z"}]}})
}

fn pod() -> Value {
    json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "dead", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Keeps `alive` alive by renewing its lease.
fn renew(model: &mut Model) -> bool {
    let now = model.now.to_string();
    let lease = json!({"kind": "Lease", "metadata": {"name": "alive", "namespace": "kube-node-lease"}, "spec": {"renewTime": now}});
    if model.get("Lease", "kube-node-lease", "alive").is_some_and(|have| have["spec"] == lease["spec"]) {
        return false;
    }
    model.apply(lease);
    true
}

fn scenario(secs: u64) -> Scenario {
    let mut scenario = Scenario::new(&[super::build], &[node("alive", "True"), node("dead", "True"), pod()]);
    scenario.surroundings = renew;
    scenario.horizon = Duration::from_secs(secs);
    scenario
}

fn taints(world: &World, name: &str) -> Vec<String> {
    let node = world.shared.model.lock().get("Node", "", name).expect("the node");
    let list = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|t| format!("{}:{}", t["key"].as_str().unwrap_or(""), t["effect"].as_str().unwrap_or("")))
        .collect()
}

#[test]
fn silence_becomes_taints() {
    let (early, late) = (scenario(45), scenario(100));
    let mut world = World::start(&early, None, false);
    assert_eq!(taints(world.run(), "dead"), Vec::<String>::new(), "within the grace period");
    let mut world = World::start(&late, None, false);
    world.run();
    assert_eq!(
        taints(&world, "dead"),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    assert_eq!(taints(&world, "alive"), Vec::<String>::new());
    let ready = world.shared.model.lock().get("Pod", "ns", "p").expect("the pod")["status"]["conditions"][0]
        ["status"]
        .clone();
    assert_eq!(ready, "False");
}

#[test]
fn a_jumping_clock_hastens_no_verdict() {
    let early = scenario(20);
    for to in ["2026-06-02T12:00:00Z", "2026-05-31T12:00:00Z"] {
        let mut world = World::start(&early, None, false);
        world.run().jump(to.parse().expect("a time"));
        world.run();
        for node in ["alive", "dead"] {
            assert_eq!(taints(&world, node), Vec::<String>::new(), "{node} after a jump to {to}");
        }
    }
}

#[test]
fn crashes() {
    check_crashes(&scenario(200));
}

#[test]
fn a_lone_cluster_is_not_evicted() {
    let mut scenario = Scenario::new(&[super::build], &[node("dead", "True")]);
    scenario.horizon = Duration::from_secs(200);
    let mut world = World::start(&scenario, None, false);
    assert_eq!(taints(world.run(), "dead"), ["node.kubernetes.io/unreachable:NoSchedule"]);
}

/// In a full outage the first silent nodes are tainted before the last are known to be silent.
#[test]
fn evictions_end_when_everything_is_down() {
    let mut first = node("first", "Unknown");
    first["spec"] = json!({"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": crate::testing::NOW},
        {"key": "own", "effect": "NoExecute"}]});
    let both = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
    for (last, expected) in [("True", both.as_slice()), ("Unknown", &both[..1])] {
        let mut scenario = Scenario::new(&[super::build], &[first.clone(), node("last", last)]);
        scenario.horizon = Duration::from_secs(20);
        let mut world = World::start(&scenario, None, false);
        let mut taints = taints(world.run(), "first");
        taints.retain(|taint| taint != "own:NoExecute");
        assert_eq!(taints, expected, "the other node's readiness is {last}");
        // Only in the outage is there something to write.
        if last == "Unknown" {
            check_crashes(&scenario);
        }
    }
}

#[test]
fn conditions_and_cordons_become_taints() {
    let mut full = node("full", "False");
    full["spec"] = json!({"unschedulable": true, "taints": [{"key": "own", "effect": "NoSchedule"}]});
    let mut scenario = Scenario::new(&[super::build], &[full, node("ok", "True")]);
    scenario.horizon = Duration::from_secs(20);
    let mut world = World::start(&scenario, None, false);
    let expected = [
        "own:NoSchedule",
        "node.kubernetes.io/not-ready:NoSchedule",
        "node.kubernetes.io/unschedulable:NoSchedule",
        "node.kubernetes.io/not-ready:NoExecute",
    ];
    assert_eq!(taints(world.run(), "full"), expected);
}
