//! From metrics to replicas, in steps and calmly.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;
use serde_json::{Value, json};

use super::behavior::{self, History};
use super::conditions::Conditions;
use crate::options::Options;
use crate::runtime::{Answer, Plan};
use crate::testing::Case;
use crate::testing::crash::check_crashes;
use crate::testing::world::{Scenario, World};

fn autoscaler(metric: Value) -> Value {
    json!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 10, "metrics": [metric]}})
}

fn cpu(percent: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn pod(number: usize) -> Value {
    json!({"kind": "Pod", "metadata": {"name": format!("p{number}"), "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": "2026-06-01T10:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-06-01T10:01:00Z"}]}})
}

fn scale(replicas: i32) -> Value {
    json!({"kind": "Scale", "spec": {"replicas": replicas}, "status": {"replicas": replicas, "selector": "app=web"}})
}

fn usage(milli: &[i64]) -> Value {
    let items = milli.iter().enumerate().map(|(number, cpu)| {
        json!({"metadata": {"name": format!("p{number}")}, "timestamp": crate::testing::NOW, "window": "30s",
            "containers": [{"name": "c", "usage": {"cpu": format!("{cpu}m")}}]})
    });
    json!({"items": items.collect::<Vec<_>>()})
}

/// Runs until nothing more is asked; each question is answered by what its path contains.
fn run(objects: &[Value], answers: &[(&str, Value)]) -> Plan {
    let mut known = Vec::new();
    for _ in 0..5 {
        let case = Case { answers: known.clone(), ..Case::new(super::build, objects) };
        let plan = case.plan("ns/web");
        let Some(ask) = plan.asks.first().cloned() else { return plan };
        let text = format!("{ask:?}");
        let (_, body) =
            answers.iter().find(|(part, _)| text.contains(part)).unwrap_or_else(|| panic!("{text}"));
        known.push((ask, Answer::Json(Arc::new(body.clone()))));
    }
    panic!("asks without end");
}

fn asked_replicas(plan: &Plan) -> Option<i64> {
    let action = plan.actions().find(|action| action.path().ends_with("/scale"))?;
    match &action.verb {
        crate::runtime::Verb::Update { body, .. } => body["spec"]["replicas"].as_i64(),
        _ => None,
    }
}

#[test]
fn cpu_utilization() {
    let cases: [(&[i64], i32, Option<i64>); 5] = [
        (&[100, 100], 50, Some(4)),
        (&[52, 50], 50, None),
        (&[25, 25], 50, Some(1)),
        (&[400, 400], 50, Some(6)),
        (&[100], 50, None),
    ];
    for (used, percent, expected) in cases {
        let objects = [autoscaler(cpu(percent)), pod(0), pod(1)];
        let plan = run(&objects, &[("deployments/web/scale", scale(2)), ("metrics.k8s.io", usage(used))]);
        assert_eq!(asked_replicas(&plan), expected, "{used:?} of 100m at {percent} %");
    }
}

/// Two pods; each kind of metric but the plain resource asks its own API.
#[test]
fn other_sources() {
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let two_pods = json!({"items": [{"describedObject": {"name": "p0"}, "value": "150"},
        {"describedObject": {"name": "p1"}, "value": "150"}]});
    let one = |value: &str| json!({"items": [{"value": value}]});
    let external = |target: Value| json!({"type": "External", "external": {"metric": {"name": "jobs"}, "target": target}});
    let object = |target: Value| {
        json!({"type": "Object", "object": {"metric": {"name": "hits"}, "target": target,
            "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "front"}}})
    };
    let container = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let cases = [
        (external(average("10")), "external.metrics", one("45"), Some(5)),
        (external(json!({"type": "Value", "value": "15"})), "external.metrics", one("45"), Some(6)),
        (
            json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": average("100")}}),
            "pods/*/rps",
            two_pods,
            Some(3),
        ),
        (object(average("20")), "services/front/hits", one("70"), Some(4)),
        (object(json!({"type": "Value", "value": "50"})), "services/front/hits", one("100"), Some(4)),
        (object(average("35")), "services/front/hits", one("70"), None),
        (container, "metrics.k8s.io", usage(&[100, 100]), Some(4)),
    ];
    for (metric, path, answer, expected) in cases {
        let objects = [autoscaler(metric.clone()), pod(0), pod(1)];
        let plan = run(&objects, &[("/scale", scale(2)), (path, answer)]);
        assert_eq!(asked_replicas(&plan), expected, "{metric}");
    }
}

#[test]
fn limits_and_disabled_targets() {
    let objects = [autoscaler(cpu(50))];
    assert_eq!(asked_replicas(&run(&objects, &[("/scale", scale(20))])), Some(10), "above the maximum");
    let plan = run(&objects, &[("/scale", scale(0))]);
    assert_eq!(asked_replicas(&plan), None);
    assert!(format!("{:?}", plan.actions().next()).contains("ScalingDisabled"));
}

#[test]
fn scaling_down_waits_for_the_window() {
    let options = Options::default().autoscaler;
    let spec = HorizontalPodAutoscalerSpec { max_replicas: 10, ..HorizontalPodAutoscalerSpec::default() };
    let mut history = History::default();
    let mut at = |secs: u64, current: i32, proposed: i32| {
        let mut conditions = Conditions::new(Vec::new(), crate::testing::now());
        behavior::apply(
            &spec,
            current,
            proposed,
            &mut history,
            Duration::from_secs(secs),
            &options,
            &mut conditions,
        )
    };
    assert_eq!(at(0, 8, 8), 8);
    assert_eq!(at(100, 8, 2), 8, "a recommendation of 8 is still in the window");
    assert_eq!(at(301, 8, 2), 2, "it is not any more");
    assert_eq!(at(400, 2, 9), 6, "four more, or twice as many, at once");
}

#[test]
fn rescaling_survives_crashes() {
    let deployment = json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "ns"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": []}}}});
    let mut scenario = Scenario::new(&[super::build], &[deployment, autoscaler(cpu(50)), pod(0), pod(1)]);
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?labelSelector=app%3Dweb";
    scenario.extra.insert(path.into(), usage(&[100, 100]));
    scenario.horizon = Duration::from_secs(20);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let found = world.shared.model.lock().get("Deployment", "ns", "web").expect("the deployment");
    assert_eq!(found["spec"]["replicas"], json!(4));
    check_crashes(&scenario);
}
