//! Counts of everything, scopes, and corrections that survive crashes.

use serde_json::{Value, json};

use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};

fn quota(hard: Value, scopes: Value) -> Value {
    json!({"kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "ns"}, "spec": {"hard": hard, "scopes": scopes}})
}

fn pod(name: &str, cpu: &str, phase: &str) -> Value {
    let resources =
        if cpu.is_empty() { json!({}) } else { json!({"requests": {"cpu": cpu}, "limits": {"cpu": "1"}}) };
    json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns"},
        "spec": {"containers": [{"name": "c", "resources": resources}]}, "status": {"phase": phase}})
}

fn objects() -> Vec<Value> {
    vec![
        pod("a", "250m", "Running"),
        pod("b", "500m", "Pending"),
        pod("done", "1", "Succeeded"),
        pod("free", "", "Running"),
        json!({"kind": "Service", "metadata": {"name": "s", "namespace": "ns"}, "spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}}),
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "v", "namespace": "ns"},
            "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
        json!({"kind": "Secret", "metadata": {"name": "x", "namespace": "ns"}}),
        json!({"kind": "Secret", "metadata": {"name": "y", "namespace": "other"}}),
        json!({"kind": "Ingress", "metadata": {"name": "i", "namespace": "ns"}}),
    ]
}

fn used(hard: Value, scopes: Value) -> Value {
    let mut objects = objects();
    objects.push(quota(hard, scopes));
    let scenario = Scenario::new(&[super::build], &objects);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let quota = world.shared.model.lock().get("ResourceQuota", "ns", "q").expect("the quota");
    quota["status"]["used"].clone()
}

#[test]
fn everything_is_counted() {
    let cases = [
        (
            json!({"pods": "9", "requests.cpu": "9", "cpu": "9", "limits.cpu": "9"}),
            json!({"pods": "3", "requests.cpu": "750m", "cpu": "750m", "limits.cpu": "2"}),
        ),
        (
            json!({"services": "9", "services.nodeports": "9", "secrets": "9", "count/secrets": "9"}),
            json!({"services": "1", "services.nodeports": "2", "secrets": "1", "count/secrets": "1"}),
        ),
        (
            json!({"requests.storage": "9Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "9"}),
            json!({"requests.storage": "1Gi", "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1"}),
        ),
        (
            json!({"count/ingresses.networking.k8s.io": "9", "count/nosuch.example.com": "9"}),
            json!({"count/ingresses.networking.k8s.io": "1", "count/nosuch.example.com": "0"}),
        ),
    ];
    for (hard, expected) in cases {
        assert_eq!(used(hard.clone(), Value::Null), expected, "{hard}");
    }
}

#[test]
fn scopes_choose_pods() {
    for (scope, expected) in
        [("BestEffort", "1"), ("NotBestEffort", "2"), ("Terminating", "0"), ("NotTerminating", "3")]
    {
        assert_eq!(used(json!({"pods": "9"}), json!([scope])), json!({"pods": expected}), "{scope}");
    }
}

#[test]
fn what_goes_is_given_back_whatever_dies() {
    let mut objects = objects();
    objects.push(quota(json!({"pods": "9", "secrets": "9"}), Value::Null));
    let mut scenario = Scenario::new(&[super::build], &objects);
    let go: fn(&mut Model) = |model| {
        model.vanish("Pod", "ns", "a");
        model.remove("Secret", "ns", "x", None);
    };
    scenario.steps = vec![go];
    scenario.horizon = std::time::Duration::from_secs(20);
    check_crashes(&scenario);
}
