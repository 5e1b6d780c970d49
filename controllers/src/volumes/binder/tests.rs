//! Claims, volumes and their events one turn at a time; bindings, releases and recycling with deaths in between.

use serde_json::{Value, json};

use super::super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE};
use super::build;
use crate::runtime::plan::{Answer, Ask, Failure};
use crate::testing::crash::check_crashes;
use crate::testing::nodes::run_pods;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

fn claim(more: Value) -> Value {
    let mut value = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}});
    merge(&mut value, &more);
    value
}

fn volume(more: Value) -> Value {
    let mut value = json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "status": {"phase": "Available"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}}});
    merge(&mut value, &more);
    value
}

fn class(provisioner: &str, mode: &str, default: bool) -> Value {
    json!({"kind": "StorageClass", "provisioner": provisioner, "volumeBindingMode": mode,
        "metadata": {"name": "k", "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}}})
}

fn merge(into: &mut Value, more: &Value) {
    match more {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut into[key.as_str()], value)),
        other => *into = other.clone(),
    }
}

fn reference(uid: &str) -> Value {
    json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": uid}}})
}

fn with(mut value: Value, more: Value) -> Value {
    merge(&mut value, &more);
    value
}

const CLAIM: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/c";
const VOLUME: &str = "/api/v1/persistentvolumes/v";

#[test]
fn claims() {
    let bound = |volume: &str| json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": volume}});
    let of_class = |class: &str| json!({"spec": {"storageClassName": class}});
    let bind = format!("update {VOLUME}\nupdate {CLAIM}");
    let statuses = format!("update {VOLUME}/status\nupdate {CLAIM}/status");
    let (update, status) = (format!("update {CLAIM}"), format!("update {CLAIM}/status"));
    let volume_only = format!("update {VOLUME}");
    let external = || class("csi.example.com", "Immediate", false);
    let late = || class("csi.example.com", "WaitForFirstConsumer", false);
    let cases: Vec<(Vec<Value>, &str)> = vec![
        (vec![claim(json!({}))], ""),
        (vec![claim(json!({"status": {"phase": ""}}))], &status),
        (vec![claim(json!({})), volume(json!({}))], &bind),
        (vec![claim(json!({})), volume(json!({"status": {"phase": "Released"}}))], ""),
        (vec![claim(json!({})), volume(reference("u"))], &update),
        (vec![claim(bound("v")), volume(reference("u"))], &statuses),
        (vec![claim(bound("v")), volume(json!({}))], &volume_only),
        (vec![claim(bound("v")), volume(reference("other"))], &status),
        (vec![claim(bound("v"))], &status),
        (vec![claim(with(bound("v"), json!({"status": {"phase": "Lost"}})))], ""),
        (vec![claim(json!({"spec": {"volumeName": "v"}})), volume(json!({}))], &bind),
        (vec![claim(json!({"spec": {"volumeName": "v"}})), volume(reference("other"))], ""),
        (vec![claim(of_class("k")), external()], &update),
        (vec![claim(of_class("k"))], ""),
        (vec![claim(of_class("k")), class("kubernetes.io/no-provisioner", "Immediate", false)], ""),
        (vec![claim(of_class("k")), late()], ""),
        (
            vec![
                claim(with(of_class("k"), json!({"metadata": {"annotations": {SELECTED_NODE: "n"}}}))),
                late(),
            ],
            &update,
        ),
        (vec![claim(json!({"spec": {"storageClassName": null}})), class("x", "Immediate", true)], &update),
    ];
    for (objects, expected) in cases {
        check(build, "ns/c", &objects, expected);
    }
}

#[test]
fn events_tell_why_a_claim_waits() {
    let of_class = || claim(json!({"spec": {"storageClassName": "k"}}));
    let late = || class("csi.example.com", "WaitForFirstConsumer", false);
    let pod = |name: &str| {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "spec": {"containers": [],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}})
    };
    let cases = [
        (vec![of_class()], "ProvisioningFailed: storageclass.storage.k8s.io \"k\" not found"),
        (
            vec![of_class(), class("kubernetes.io/no-provisioner", "Immediate", false)],
            "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (
            vec![of_class(), late()],
            "WaitForFirstConsumer: waiting for first consumer to be created before binding",
        ),
        (vec![of_class(), late(), pod("a")], "WaitForPodScheduled: waiting for pod a to be scheduled"),
        (
            vec![of_class(), late(), pod("a"), pod("b")],
            "WaitForPodScheduled: waiting for pods a,b to be scheduled",
        ),
        (
            vec![claim(json!({}))],
            "FailedBinding: no persistent volumes available for this claim and no storage class is set",
        ),
    ];
    for (objects, expected) in cases {
        let plan = Case::new(build, &objects).plan("ns/c");
        let told: Vec<String> = plan.notes.iter().map(|n| format!("{}: {}", n.reason, n.message)).collect();
        assert_eq!(told, [expected]);
    }
}

#[test]
fn volumes() {
    let bound_to = |volume: &str| claim(json!({"spec": {"volumeName": volume}}));
    let (status, update) = (format!("update {VOLUME}/status"), format!("update {VOLUME}"));
    let with_policy = |policy: &str, phase: &str| {
        volume(with(
            reference("u"),
            json!({"status": {"phase": phase}, "spec": {"persistentVolumeReclaimPolicy": policy}}),
        ))
    };
    let external = json!({"metadata": {"annotations": {PROVISIONED_BY: "csi.example.com"}}});
    let by_us = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}});
    let cases = [
        (vec![volume(json!({"status": {"phase": ""}}))], status.as_str()),
        (vec![volume(json!({}))], ""),
        (vec![volume(reference("u")), bound_to("v")], &status),
        (vec![volume(with(reference("u"), by_us)), bound_to("w")], &update),
        (vec![with_policy("Retain", "Released")], ""),
        (vec![with_policy("Delete", "Released")], &status),
        (vec![with(with_policy("Delete", "Released"), external.clone())], ""),
        (vec![with(with_policy("Delete", "Bound"), external), bound_to("w")], &status),
        (vec![with_policy("Recycle", "Released")], "create /api/v1/namespaces/default/pods/recycler-for-v"),
        (vec![with_policy("Nonsense", "Released")], &status),
    ];
    for (objects, expected) in cases {
        check(build, "v", &objects, expected);
    }
}

#[test]
fn a_volume_is_released_only_when_the_server_says_so() {
    let objects = [volume(with(reference("u"), json!({"status": {"phase": "Bound"}})))];
    let answer = |answer: Answer| {
        let answers = vec![(Ask::Get(CLAIM.into()), answer)];
        Case { answers, ..Case::new(build, &objects) }.plan("v").summary()
    };
    assert_eq!(Case::new(build, &objects).plan("v").asks.len(), 1, "a cache may be old");
    let missing = Failure { code: 404, reason: String::new(), message: String::new(), creating: false };
    assert_eq!(answer(Answer::Failed(missing)), format!("update {VOLUME}/status"));
    let live = claim(json!({"spec": {"volumeName": "v"}}));
    assert_eq!(answer(Answer::Json(std::sync::Arc::new(live))), "");
}

/// A claim `c` and a new volume; then the claim is deleted.
fn bound_and_released() -> Scenario {
    let mut scenario = Scenario::new(&[build], &[claim(json!({})), volume(json!({"status": {"phase": ""}}))]);
    scenario.horizon = std::time::Duration::from_secs(5);
    scenario.steps = vec![|model| {
        let bound = model.all("PersistentVolume")[0]["spec"]["claimRef"]["name"].clone();
        model.remove("PersistentVolumeClaim", "ns", bound.as_str().unwrap_or(""), None);
    }];
    scenario
}

#[test]
fn binding_and_releasing_whatever_dies() {
    assert_eq!(check_crashes(&bound_and_released()), 6);
}

#[test]
fn one_volume_is_bound_to_one_claim() {
    let mut scenario = bound_and_released();
    scenario.objects.push(with(claim(json!({})), json!({"metadata": {"name": "d", "uid": "w"}})));
    let mut world = World::start(&scenario, None, false);
    let model = world.run().shared.model.lock();
    assert_eq!(model.all("PersistentVolume")[0]["status"]["phase"], "Released");
    assert_eq!(model.all("PersistentVolumeClaim").len(), 1, "the other claim still waits");
}

#[test]
fn recycling_whatever_dies() {
    let recycled =
        volume(with(reference("u"), json!({"spec": {"persistentVolumeReclaimPolicy": "Recycle"}})));
    let mut scenario = Scenario::new(&[build], &[recycled]);
    scenario.surroundings = |model| {
        let running: Vec<Value> =
            model.all("Pod").into_iter().filter(|pod| pod["status"]["phase"] == "Running").collect();
        for pod in &running {
            let name = pod["metadata"]["name"].as_str().unwrap_or("");
            model.edit("Pod", "default", name, |pod| pod["status"]["phase"] = "Succeeded".into());
        }
        !running.is_empty() || run_pods(model)
    };
    let mut world = World::start(&scenario, None, false);
    world.run();
    {
        let model = world.shared.model.lock();
        let volume = &model.all("PersistentVolume")[0];
        assert_eq!(
            (volume["status"]["phase"].as_str(), &volume["spec"]["claimRef"]["uid"]),
            (Some("Available"), &Value::Null)
        );
        assert!(model.all("Pod").is_empty());
    }
    // A recycler pod may be made once more when the process dies between its removal and the unbinding: it only
    // empties an empty directory. Everything else is the same.
    for number in 0..world.writes() {
        let crash = Some(crate::testing::world::Crash::After(number));
        let mut world = World::start(&scenario, crash, false);
        let model = world.run().shared.model.lock();
        assert_eq!(model.all("PersistentVolume")[0]["status"]["phase"], "Available", "killed after {number}");
        assert!(model.all("Pod").is_empty());
    }
}
