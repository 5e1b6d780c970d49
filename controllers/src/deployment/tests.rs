//! What a deployment plans, and that rollouts survive being killed anywhere.

use serde_json::{Value, json};

use crate::testing::check;
use crate::testing::crash::check_crashes;
use crate::testing::model::Model;
use crate::testing::nodes::run_pods as nodes;
use crate::testing::world::{Scenario, World};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "revisionHistoryLimit": 1, "progressDeadlineSeconds": 600, "template": template(image)}})
}

fn rolling(surge: &str, unavailable: &str) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn a_new_deployment_makes_its_replica_set() {
    let hash = "create /apis/apps/v1/namespaces/ns/replicasets/web-";
    let plan =
        crate::testing::Case::new(super::build, &[deployment(3, "a", rolling("25%", "25%"))]).plan("ns/web");
    let lines: Vec<String> = plan.summary().lines().map(str::to_string).collect();
    assert!(lines[0].starts_with(hash), "{lines:?}");
    assert_eq!(lines[1..], ["update /apis/apps/v1/namespaces/ns/deployments/web/status"]);
    let note = plan.actions().next().and_then(|action| action.on_success.as_ref()).expect("an event");
    assert!(note.message.ends_with("from 0 to 3"), "{}", note.message);
}

#[test]
fn an_empty_selector_is_refused() {
    let mut all = deployment(1, "a", rolling("1", "0"));
    all["spec"]["selector"] = json!({});
    check(super::build, "ns/web", &[all], "update /apis/apps/v1/namespaces/ns/deployments/web/status");
}

fn scenario(strategy: Value, steps: Vec<fn(&mut Model)>) -> Scenario {
    let builds = [super::build as crate::runtime::Build, crate::replicaset::build];
    let mut scenario = Scenario::new(&builds, &[deployment(4, "a", strategy)]);
    scenario.steps = steps;
    scenario.surroundings = nodes;
    scenario
}

fn set_image(model: &mut Model) {
    model.edit("Deployment", "ns", "web", |web| web["spec"]["template"] = template("b"));
}

fn scale(model: &mut Model) {
    model.edit("Deployment", "ns", "web", |web| web["spec"]["replicas"] = json!(7));
}

fn status_of(world: &World) -> Value {
    world.shared.model.lock().get("Deployment", "ns", "web").expect("the deployment")["status"].clone()
}

#[test]
fn rolling_update_survives_crashes() {
    let scenario = scenario(rolling("25%", "25%"), vec![set_image, scale]);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let status = status_of(&world);
    assert_eq!(
        (&status["updatedReplicas"], &status["availableReplicas"]),
        (&json!(7), &json!(7)),
        "{status}"
    );
    assert!(status["conditions"].to_string().contains("has successfully progressed."), "{status}");
    check_crashes(&scenario);
}

#[test]
fn recreate_survives_crashes() {
    let scenario = scenario(json!({"type": "Recreate"}), vec![set_image]);
    let mut world = World::start(&scenario, None, false);
    world.run();
    assert_eq!(status_of(&world)["availableReplicas"], json!(4));
    check_crashes(&scenario);
}

#[test]
fn a_rollout_never_has_more_or_fewer_pods_than_allowed() {
    let mut scenario = scenario(rolling("1", "0"), vec![set_image]);
    scenario.surroundings = |model| {
        let ready = model.all("Pod").iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        assert!(model.all("Pod").len() <= 5, "more than the surge");
        let updated =
            model.get("Deployment", "ns", "web").map(|web| web["spec"]["template"] == template("b"));
        assert!(updated != Some(true) || ready >= 4, "fewer than are to be available");
        nodes(model)
    };
    World::start(&scenario, None, false).run();
}

#[test]
fn a_stuck_rollout_times_out() {
    let mut scenario = scenario(rolling("25%", "25%"), vec![]);
    scenario.surroundings = |_| false;
    scenario.horizon = std::time::Duration::from_secs(700);
    let mut world = World::start(&scenario, None, false);
    world.run();
    let status = status_of(&world);
    assert!(status["conditions"].to_string().contains("has timed out progressing."), "{status}");
}
