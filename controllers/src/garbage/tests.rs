//! Background, foreground, orphans, absent owners and owners that stay.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::graph::{Graph, Node};
use super::monitor::Feed;
use super::{Collector, Owner};
use crate::runtime::store::AnyStore;
use crate::runtime::{Controller, Failure, Gvr, Object, Propagation, Wiring};
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::world::{Scenario, World};
use crate::testing::{Case, check};

/// The collector fed by four typed caches instead of discovery.
fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let graph = Arc::new(RwLock::new(Graph::default()));
    let feed = Feed::new(graph.clone(), wiring.queue());
    fn attach<K: Object>(wiring: &mut Wiring, feed: &Feed) -> (Gvr, bool) {
        let store = wiring.store::<K>();
        feed.attach(Gvr::of::<K>(), &store as &dyn AnyStore);
        (Gvr::of::<K>(), true)
    }
    let kinds = vec![
        attach::<Deployment>(wiring, &feed),
        attach::<ReplicaSet>(wiring, &feed),
        attach::<Pod>(wiring, &feed),
        attach::<ConfigMap>(wiring, &feed),
    ];
    graph.write().set_kinds(kinds);
    graph.write().set_complete(true);
    Box::new(Collector { graph, workers: 1 })
}

fn owned(kind: &str, name: &str, owners: &[(&str, &str)]) -> Value {
    let references = owners.iter().map(|(kind, name)| {
        let group = if matches!(*kind, "Deployment" | "ReplicaSet") { "apps/v1" } else { "v1" };
        json!({"apiVersion": group, "kind": kind, "name": name, "uid": format!("u-{name}"), "blockOwnerDeletion": true})
    });
    let references: Vec<Value> = references.collect();
    let mut object = json!({"kind": kind, "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"),
        "resourceVersion": "1"}});
    if !references.is_empty() {
        object["metadata"]["ownerReferences"] = references.into();
    }
    match kind {
        "Pod" => object["spec"] = json!({"containers": []}),
        "Deployment" | "ReplicaSet" => {
            object["spec"] = json!({"selector": {}, "template": {"spec": {"containers": []}}});
        }
        _ => {}
    }
    object
}

#[test]
fn absent_owners_are_verified() {
    let pod = owned("Pod", "p", &[("ReplicaSet", "gone")]);
    let plan = Case::new(build, std::slice::from_ref(&pod)).plan("u-p");
    assert_eq!(plan.asks.len(), 1, "nothing is deleted on the cache's word alone");
    let ask = plan.asks[0].clone();
    let answer = |body: Value| crate::runtime::Answer::Json(Arc::new(body));
    let same = answer(json!({"metadata": {"uid": "u-gone"}}));
    let other = answer(json!({"metadata": {"uid": "u-reborn"}}));
    for (answer, expected) in [(same, ""), (other, "delete /api/v1/namespaces/ns/pods/p")] {
        let objects = [pod.clone()];
        let case = Case { answers: vec![(ask.clone(), answer)], ..Case::new(build, &objects) };
        assert_eq!(case.plan("u-p").summary(), expected);
    }
}

#[test]
fn a_path_that_is_not_served_is_no_absent_owner() {
    let pod = owned("Pod", "p", &[("ReplicaSet", "gone")]);
    let ask = Case::new(build, std::slice::from_ref(&pod)).plan("u-p").asks.remove(0);
    let delete = "delete /api/v1/namespaces/ns/pods/p";
    for (reason, message, expected) in [
        ("NotFound", "replicasets.apps \"gone\" not found", delete),
        ("NotFound", "the server could not find the requested resource", ""),
        ("Failed to parse error data", "404 page not found", ""),
    ] {
        let failure = Failure { code: 404, reason: reason.into(), message: message.into(), creating: false };
        let objects = [pod.clone()];
        let answers = vec![(ask.clone(), crate::runtime::Answer::Failed(failure))];
        let plan = Case { answers, ..Case::new(build, &objects) }.plan("u-p");
        assert_eq!(plan.summary(), expected, "{message}");
        assert_eq!(plan.problem.is_some(), expected.is_empty(), "it is asked again: {message}");
    }
}

#[test]
fn a_cluster_wide_object_never_goes_for_a_namespaced_owner() {
    let kept = owned("ConfigMap", "kept", &[]);
    let mut cluster_wide = owned("Pod", "p", &[("ConfigMap", "kept")]);
    cluster_wide["metadata"]["namespace"] = Value::Null;
    for objects in [vec![kept, cluster_wide.clone()], vec![cluster_wide]] {
        let plan = Case::new(build, &objects).plan("u-p");
        assert_eq!((plan.summary().as_str(), plan.asks.len()), ("", 0));
        assert!(plan.problem.is_some_and(|problem| problem.message.contains("refers to a namespaced owner")));
    }
}

#[test]
fn owners_are_asked_for_in_a_version_that_is_served() {
    let mut pod = owned("Pod", "p", &[("ReplicaSet", "gone")]);
    pod["metadata"]["ownerReferences"][0]["apiVersion"] = "apps/v1beta1".into();
    let plan = Case::new(build, &[pod]).plan("u-p");
    assert_eq!(plan.asks, [crate::runtime::Ask::Meta("/apis/apps/v1/namespaces/ns/replicasets/gone".into())]);
}

#[test]
fn objects_of_a_kind_that_is_no_longer_watched_are_not_taken_for_gone() {
    let gvr = |version: &str| Gvr::new("example.com", version, "flocks", "Flock");
    let meta = |object: Value| serde_json::from_value(object["metadata"].clone()).expect("metadata");
    let node =
        |version: &str, object: Value| Node::of(Arc::new(gvr(version)), &meta(object)).expect("a node");
    let mut graph = Graph::default();
    graph.apply(node("v1", owned("Flock", "f", &[])));
    graph.apply(node("v1", owned("Bird", "b", &[("Flock", "f")])));
    assert_eq!(graph.forget(&gvr("v2"), "u-f"), [] as [Arc<str>; 0], "seen in another version");
    assert!(graph.get("u-f").is_some());
    assert_eq!(graph.forget(&gvr("v1"), "u-f"), ["u-b".into()]);
    assert!(graph.get("u-f").is_none() && !graph.is_known_absent("u-f"), "its dependents have to ask");
    graph.apply(node("v2", owned("Flock", "f", &[])));
    assert_eq!(graph.delete("u-f"), ["u-b".into()]);
    assert!(graph.is_known_absent("u-f"));
}

#[test]
fn one_living_owner_is_enough() {
    let kept = owned("ConfigMap", "kept", &[]);
    check(build, "u-p", &[kept, owned("Pod", "p", &[("ConfigMap", "kept")])], "");
}

#[test]
fn references_render_as_they_were() {
    let owner = Owner {
        uid: "u".into(),
        api_version: "v1".into(),
        kind: "K".into(),
        name: "n".into(),
        controller: Some(true),
        block: None,
    };
    assert_eq!(
        owner.to_json(),
        json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u", "controller": true})
    );
}

fn family() -> Vec<Value> {
    vec![
        owned("ConfigMap", "other", &[]),
        owned("Deployment", "d", &[]),
        owned("ReplicaSet", "r", &[("Deployment", "d")]),
        owned("Pod", "p1", &[("ReplicaSet", "r")]),
        owned("Pod", "p2", &[("ReplicaSet", "r"), ("ConfigMap", "other")]),
    ]
}

fn scenario(step: fn(&mut Model)) -> Scenario {
    let mut scenario = Scenario::new(&[build], &family());
    scenario.steps = vec![step];
    scenario
}

fn left(scenario: &Scenario) -> Vec<String> {
    let mut world = World::start(scenario, None, false);
    world.run();
    let model = world.shared.model.lock();
    model.everything().map(|object| object["metadata"]["name"].as_str().unwrap_or("").to_string()).collect()
}

#[test]
fn background() {
    let scenario = scenario(|model| model.remove("Deployment", "ns", "d", Some(Propagation::Background)));
    assert_eq!(left(&scenario), ["other", "p2"]);
    check_crashes(&scenario);
}

#[test]
fn foreground() {
    let scenario = scenario(|model| model.remove("Deployment", "ns", "d", Some(Propagation::Foreground)));
    assert_eq!(left(&scenario), ["other", "p2"]);
    check_crashes(&scenario);
}

#[test]
fn circles_of_owners_are_broken() {
    for (name, refs) in
        [("two", vec![("a", "b"), ("b", "a")]), ("three", vec![("a", "c"), ("b", "a"), ("c", "b")])]
    {
        let objects: Vec<Value> =
            refs.iter().map(|(from, to)| owned("ConfigMap", from, &[("ConfigMap", to)])).collect();
        let mut scenario = Scenario::new(&[build], &objects);
        scenario.steps = vec![|model| model.remove("ConfigMap", "ns", "a", Some(Propagation::Foreground))];
        assert_eq!(left(&scenario), Vec::<String>::new(), "a circle of {name}");
        check_crashes(&scenario);
    }
}

#[test]
fn orphaning() {
    let scenario = scenario(|model| model.remove("ReplicaSet", "ns", "r", Some(Propagation::Orphan)));
    assert_eq!(left(&scenario), ["other", "d", "p1", "p2"]);
    check_crashes(&scenario);
}
