//! Attaching, multi-attach, and when a volume is taken from a node; moves between nodes with deaths in between.

use std::time::Duration;

use serde_json::{Value, json};

use super::desired::attachment_name;
use super::detach::{MAX_WAIT, Situation, Verdict, judge};
use super::{MANAGED, build};
use crate::runtime::plan::{Answer, Ask, Context};
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

const UNIQUE: &str = "kubernetes.io/csi/d^h";

fn node(name: &str, more: Value) -> Value {
    let mut value = json!({"kind": "Node", "metadata": {"name": name, "annotations": {MANAGED: "true"}},
        "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    for (path, change) in more.as_object().into_iter().flatten() {
        match path.as_str() {
            "taints" => value["spec"]["taints"] = change.clone(),
            "ready" => value["status"]["conditions"][0]["status"] = change.clone(),
            "unmanaged" => value["metadata"]["annotations"] = json!({}),
            other => value["status"][other] = change.clone(),
        }
    }
    value
}

fn storage(mode: &str) -> Vec<Value> {
    vec![
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}),
        json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {"accessModes": [mode],
            "csi": {"driver": "d", "volumeHandle": "h"}, "claimRef": {"namespace": "ns", "name": "c", "uid": "u"}}}),
    ]
}

fn pod(name: &str, node: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "status": {"phase": "Running"},
        "spec": {"nodeName": node, "containers": [],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}})
}

fn attachment(node: &str, status: Value) -> Value {
    json!({"kind": "VolumeAttachment", "metadata": {"name": attachment_name("h", "d", node)}, "status": status,
        "spec": {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "v"}}})
}

fn objects(mode: &str, more: &[Value]) -> Vec<Value> {
    storage(mode).into_iter().chain(more.iter().cloned()).collect()
}

#[test]
fn attaching() {
    let path =
        |node: &str| format!("/apis/storage.k8s.io/v1/volumeattachments/{}", attachment_name("h", "d", node));
    let create = format!("create {}", path("n1"));
    let not_required =
        json!({"kind": "CSIDriver", "metadata": {"name": "d"}, "spec": {"attachRequired": false}});
    let attached = || json!({"attached": true});
    let told = json!({"volumesAttached": [{"name": UNIQUE, "devicePath": ""}]});
    let cases = [
        (objects("ReadWriteOnce", &[node("n1", json!({})), pod("p", "n1")]), create.as_str()),
        (objects("ReadWriteOnce", &[node("n1", json!({"unmanaged": true})), pod("p", "n1")]), ""),
        (objects("ReadWriteOnce", &[node("n1", json!({})), pod("p", "n1"), not_required]), ""),
        (
            objects("ReadWriteOnce", &[node("n1", json!({})), pod("p", "n1"), attachment("n2", attached())]),
            "",
        ),
        (
            objects("ReadWriteMany", &[node("n1", json!({})), pod("p", "n1"), attachment("n2", attached())]),
            &create,
        ),
        (
            objects("ReadWriteOnce", &[node("n1", json!({})), pod("p", "n1"), attachment("n1", attached())]),
            "patch /api/v1/nodes/n1/status",
        ),
        (objects("ReadWriteOnce", &[node("n1", told), pod("p", "n1"), attachment("n1", attached())]), ""),
    ];
    for (objects, expected) in cases {
        check(build, "n1", &objects, expected);
    }
}

#[test]
fn a_volume_in_use_elsewhere_is_reported() {
    let told = |more: &[Value]| {
        let plan = Case::new(build, &objects("ReadWriteOnce", more)).plan("n1");
        plan.notes.iter().map(|note| note.message.clone()).collect::<Vec<_>>().join("|")
    };
    let holder = attachment("n2", json!({"attached": true}));
    assert_eq!(
        told(&[node("n1", json!({})), pod("p", "n1"), holder.clone(), pod("q", "n2")]),
        "Multi-Attach error for volume \"v\" Volume is already used by pod(s) q"
    );
    assert_eq!(
        told(&[node("n1", json!({})), pod("p", "n1"), holder]),
        "Multi-Attach error for volume \"v\" Volume is already exclusively attached to one node and can't be attached to another"
    );
    let failing = attachment("n1", json!({"attached": false, "attachError": {"message": "no"}}));
    assert_eq!(
        told(&[node("n1", json!({})), pod("p", "n1"), failing]),
        "AttachVolume.Attach failed for volume \"v\" : no"
    );
}

#[test]
fn when_a_volume_is_taken_away() {
    let in_use = || json!({"volumesInUse": [UNIQUE]});
    let with = |mut a: Value, b: Value| {
        b.as_object().into_iter().flatten().for_each(|(k, v)| a[k] = v.clone());
        a
    };
    let out = json!({"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]});
    let sick = || json!({"ready": "Unknown"});
    let long = MAX_WAIT + Duration::from_secs(1);
    let verdict = |node: Option<Value>, unwanted_for: Duration, by_force: bool, live: Option<Value>| {
        let node = node.map(|node| serde_json::from_value(node).expect("a node"));
        let ask = Ask::Get("/api/v1/nodes/n1".into());
        let answers = live.map(|live| (ask, Answer::Json(std::sync::Arc::new(live)))).into_iter().collect();
        let context =
            Context { now: crate::testing::now(), elapsed: Duration::ZERO, failure: None, answers: &answers };
        let case = Situation { node: node.as_ref(), node_name: "n1", unique: UNIQUE, unwanted_for, by_force };
        match judge(&case, &context) {
            Verdict::Detach => "detach",
            Verdict::Wait(_) => "wait",
            Verdict::Ask(_) => "ask",
        }
    };
    let brief = Duration::from_secs(5);
    let cases = [
        (Some(node("n1", json!({}))), brief, true, None, "ask"),
        (Some(node("n1", json!({}))), brief, true, Some(node("n1", json!({}))), "detach"),
        (Some(node("n1", json!({}))), brief, true, Some(node("n1", in_use())), "wait"),
        (Some(node("n1", in_use())), brief, true, None, "wait"),
        (Some(node("n1", in_use())), long, true, None, "wait"),
        (Some(node("n1", with(in_use(), sick()))), brief, true, None, "wait"),
        (Some(node("n1", with(in_use(), sick()))), long, true, None, "detach"),
        (Some(node("n1", with(in_use(), sick()))), long, false, None, "wait"),
        (Some(node("n1", with(in_use(), out))), brief, true, None, "detach"),
        (None, brief, true, None, "wait"),
        (None, long, true, None, "detach"),
    ];
    for (node, unwanted_for, by_force, live, expected) in cases {
        let text = format!("{node:?} {unwanted_for:?} {by_force}");
        assert_eq!(verdict(node, unwanted_for, by_force, live), expected, "{text}");
    }
}

/// The drivers' attachers, and the nodes' agents: what is attached is mounted while a pod is there.
fn surroundings(model: &mut Model) -> bool {
    let mut moved = false;
    for one in model.all("VolumeAttachment") {
        if one["status"]["attached"] != true {
            let name = one["metadata"]["name"].as_str().unwrap_or("").to_string();
            model.edit("VolumeAttachment", "", &name, |one| one["status"] = json!({"attached": true}));
            moved = true;
        }
    }
    for node in model.all("Node") {
        let name = node["metadata"]["name"].as_str().unwrap_or("").to_string();
        let has_pod = model.all("Pod").iter().any(|pod| pod["spec"]["nodeName"] == node["metadata"]["name"]);
        let told = node["status"]["volumesAttached"].as_array().is_some_and(|list| !list.is_empty());
        let wanted = if has_pod && told { json!([UNIQUE]) } else { json!([]) };
        let mounted = node["status"]["volumesInUse"].as_array().cloned().unwrap_or_default();
        if Value::Array(mounted) != wanted && (told || !has_pod) {
            model.edit("Node", "", &name, |node| node["status"]["volumesInUse"] = wanted);
            moved = true;
        }
    }
    moved
}

#[test]
fn a_volume_moves_with_its_pod_whatever_dies() {
    let start = [node("n1", json!({})), node("n2", json!({})), pod("p", "n1")];
    let mut scenario = Scenario::new(&[build], &objects("ReadWriteOnce", &start));
    scenario.surroundings = surroundings;
    let steps: [fn(&mut Model); 2] = [
        |model| {
            model.apply(pod("q", "n2"));
        },
        |model| model.vanish("Pod", "ns", "p"),
    ];
    scenario.steps = steps.to_vec();
    {
        let mut world = World::start(&scenario, None, false);
        world.run();
        let model = world.shared.model.lock();
        let left = model.all("VolumeAttachment");
        assert_eq!(left.len(), 1, "never on two nodes");
        assert_eq!(left[0]["spec"]["nodeName"], "n2");
    }
    check_crashes(&scenario);
}
