//! Slices for pods, few writes, and convergence whatever happens.

use serde_json::{Value, json};

use crate::testing::check;
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};

fn service(spec: Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
        "spec": {"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
    for (name, value) in spec.as_object().expect("an object") {
        service["spec"][name] = value.clone();
    }
    service
}

fn pod(number: usize, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({"kind": "Pod", "metadata": {"name": format!("p{number:03}"), "namespace": "ns", "uid": format!("u{number}"),
            "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", number / 250, number % 250 + 1)}],
            "conditions": [{"type": "Ready", "status": status}]}})
}

fn node() -> Value {
    json!({"kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}})
}

const CREATE: &str = "create /apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/web-";

#[test]
fn cases() {
    check(super::build, "ns/web", &[service(json!({}))], CREATE);
    check(super::build, "ns/web", &[service(json!({"selector": null}))], "");
    check(super::build, "ns/web", &[service(json!({"type": "ExternalName"}))], "");
    let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
    check(super::build, "ns/web", &[dual, node(), pod(1, true)], &format!("{CREATE}\n{CREATE}"));
}

#[test]
fn many_pods_fill_slices() {
    let mut objects = vec![service(json!({})), node()];
    objects.extend((0..250).map(|number| pod(number, true)));
    check(super::build, "ns/web", &objects, &[CREATE; 3].join("\n"));
}

fn endpoints(world: &World) -> Vec<Value> {
    let slices = world.shared.model.lock().all("EndpointSlice");
    slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let near = service(json!({"trafficDistribution": "PreferSameNode"}));
    let scenario = Scenario::new(&[super::build], &[near, node(), pod(1, true), pod(2, false)]);
    let mut world = World::start(&scenario, None, false);
    let endpoints = endpoints(world.run());
    assert_eq!(endpoints[0]["hints"], json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}));
    assert_eq!(endpoints[1]["hints"], Value::Null, "not ready");
    assert_eq!(endpoints[0]["zone"], "z1");
}

fn churn(model: &mut Model) {
    model.vanish("Pod", "ns", "p001");
    for number in 200..320 {
        model.apply(pod(number, true));
    }
}

fn one_goes(model: &mut Model) {
    model.vanish("Pod", "ns", "p200");
    model.edit("Service", "ns", "web", |service| {
        service["spec"]["trafficDistribution"] = "PreferClose".into()
    });
}

#[test]
fn churn_survives_crashes() {
    let mut objects = vec![service(json!({})), node()];
    objects.extend((0..3).map(|number| pod(number, true)));
    let mut scenario = Scenario::new(&[super::build], &objects);
    scenario.steps = vec![churn, one_goes];
    let mut world = World::start(&scenario, None, false);
    assert_eq!(endpoints(world.run()).len(), 121);
    assert_eq!(world.shared.model.lock().all("EndpointSlice").len(), 2);
    check_crashes(&scenario);
}
