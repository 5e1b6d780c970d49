//! Provisioning and removal one turn at a time; a volume from claim to nothing with deaths in between.

use serde_json::{Value, json};

use super::super::{PROVISIONED_BY, PROVISIONER, PROVISIONER_FINALIZER, SELECTED_NODE, binder, protection};
use super::{CLASS_KEY, NAME, build};
use crate::options::Options;
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::nodes::run_pods;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check, check_with};

fn class(mode: &str) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": NAME,
        "reclaimPolicy": "Delete", "volumeBindingMode": mode})
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn claim(annotations: Value, more: Value) -> Value {
    let mut spec = json!({"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
    json!({"kind": "PersistentVolumeClaim", "spec": spec, "status": {"phase": "Pending"},
        "metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations}})
}

fn volume(phase: &str, policy: &str, finalizers: Value) -> Value {
    let required = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]});
    json!({"kind": "PersistentVolume", "status": {"phase": phase},
        "metadata": {"name": "pvc-u", "annotations": {PROVISIONED_BY: NAME}, "finalizers": finalizers},
        "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/data/pvc-u_ns_c"},
            "claimRef": {"namespace": "ns", "name": "c", "uid": "u"}, "nodeAffinity": {"required": required}}})
}

fn helper(phase: &str, works_for: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "local-path-remove-pvc-u", "namespace": "kube-system",
        "annotations": {"quarterdeck.dev/works-for": works_for}}, "status": {"phase": phase}, "spec": {"containers": []}})
}

const CREATE: &str = "create /api/v1/persistentvolumes/pvc-u";

#[test]
fn provisioning() {
    let asked = || json!({PROVISIONER: NAME});
    let selected = |node: &str| json!({PROVISIONER: NAME, SELECTED_NODE: node});
    let late = || class("WaitForFirstConsumer");
    let cases = [
        (vec![late(), node("n1"), claim(json!({}), json!({}))], ""),
        (vec![late(), node("n1"), claim(asked(), json!({}))], ""),
        (vec![late(), node("n1"), claim(selected("n1"), json!({}))], CREATE),
        (
            vec![late(), node("n1"), claim(selected("gone"), json!({}))],
            "update /api/v1/namespaces/ns/persistentvolumeclaims/c",
        ),
        (vec![class("Immediate"), node("n1"), claim(asked(), json!({}))], CREATE),
        (vec![class("Immediate"), claim(asked(), json!({}))], ""),
        (vec![late(), node("n1"), claim(selected("n1"), json!({"volumeMode": "Block"}))], ""),
        (vec![late(), node("n1"), claim(selected("n1"), json!({"accessModes": ["ReadWriteMany"]}))], ""),
        (
            vec![late(), node("n1"), claim(selected("n1"), json!({})), volume("Bound", "Delete", json!([]))],
            "",
        ),
    ];
    for (objects, expected) in cases {
        check(build, "ns/c", &objects, expected);
    }
}

#[test]
fn a_volume_is_a_directory_on_its_node() {
    let objects = [
        class("WaitForFirstConsumer"),
        node("n1"),
        claim(json!({PROVISIONER: NAME, SELECTED_NODE: "n1"}), json!({})),
    ];
    let plan = Case::new(build, &objects).plan("ns/c");
    let crate::runtime::Verb::Create { body, .. } = &plan.batches[0].actions[0].verb else {
        panic!("no creation")
    };
    assert_eq!(body["spec"]["hostPath"]["path"], "/var/lib/quarterdeck/local-path/pvc-u_ns_c");
    assert_eq!(body["spec"]["claimRef"]["uid"], "u");
    assert_eq!(body["metadata"]["finalizers"], json!([PROVISIONER_FINALIZER]));
    let terms = &body["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"][0]["values"], json!(["n1"]));
}

#[test]
fn removing() {
    let held = || json!([PROVISIONER_FINALIZER]);
    let released = || volume("Released", "Delete", held());
    let pod = "/api/v1/namespaces/kube-system/pods/local-path-remove-pvc-u";
    let update = "update /api/v1/persistentvolumes/pvc-u";
    let cases = [
        (vec![node("n1"), volume("Bound", "Delete", held())], String::new()),
        (vec![node("n1"), volume("Released", "Retain", held())], update.into()),
        (vec![node("n1"), volume("Released", "Retain", json!([]))], String::new()),
        (vec![node("n1"), released()], format!("create {pod}")),
        (vec![node("n1"), released(), helper("Running", "u")], String::new()),
        (vec![node("n1"), released(), helper("Failed", "u")], format!("delete {pod}")),
        (vec![node("n1"), released(), helper("Succeeded", "another")], format!("delete {pod}")),
        (vec![node("n1"), released(), helper("Succeeded", "u")], update.into()),
        (
            vec![node("n1"), volume("Released", "Delete", json!([])), helper("Succeeded", "u")],
            "delete /api/v1/persistentvolumes/pvc-u".into(),
        ),
        (vec![released()], update.into()),
        (vec![helper("Succeeded", "u")], format!("delete {pod}")),
    ];
    for (objects, expected) in cases {
        check(build, "pvc-u", &objects, &expected);
    }
}

#[test]
fn the_class_is_made_once() {
    let mut options = Options::default();
    options.volumes.local_path_class = "local-path".into();
    let create = "create /apis/storage.k8s.io/v1/storageclasses/local-path";
    check_with(build, &options, CLASS_KEY, &[], create);
    let mut existing = class("Immediate");
    existing["metadata"]["name"] = "local-path".into();
    check_with(build, &options, CLASS_KEY, &[existing], "");
}

/// The scheduler selects a node for claims that wait; nodes run pods, and helpers end well.
fn surroundings(model: &mut Model) -> bool {
    let mut moved = false;
    for claim in model.all("PersistentVolumeClaim") {
        if claim["metadata"]["annotations"][SELECTED_NODE].is_null() && claim["spec"]["volumeName"].is_null()
        {
            model.edit("PersistentVolumeClaim", "ns", "c", |c| {
                c["metadata"]["annotations"][SELECTED_NODE] = "n1".into();
            });
            moved = true;
        }
    }
    for pod in model.all("Pod") {
        let name = pod["metadata"]["name"].as_str().unwrap_or("").to_string();
        if name.starts_with(super::remove::PREFIX) && pod["status"]["phase"] == "Running" {
            model.edit("Pod", super::remove::NAMESPACE, &name, |pod| {
                pod["status"]["phase"] = "Succeeded".into()
            });
            moved = true;
        }
    }
    moved || run_pods(model)
}

#[test]
fn from_claim_to_nothing_whatever_dies() {
    let builds = [build, binder::build, protection::build_claims, protection::build_volumes];
    let objects = [class("WaitForFirstConsumer"), node("n1"), claim(json!({}), json!({}))];
    let mut scenario = Scenario::new(&builds, &objects);
    scenario.surroundings = surroundings;
    {
        let mut world = World::start(&scenario, None, false);
        world.run();
        let model = world.shared.model.lock();
        assert_eq!(model.all("PersistentVolumeClaim")[0]["status"]["phase"], "Bound");
        assert_eq!(model.all("PersistentVolume")[0]["status"]["phase"], "Bound");
    }
    scenario.steps = vec![|model| model.remove("PersistentVolumeClaim", "ns", "c", None)];
    {
        let mut world = World::start(&scenario, None, false);
        world.run();
        let model = world.shared.model.lock();
        assert!(model.all("PersistentVolume").is_empty() && model.all("Pod").is_empty());
    }
    check_crashes(&scenario);
}
