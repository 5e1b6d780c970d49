//! Evicts pods from nodes with taints that they do not tolerate, or tolerate only for a time. The time counts from
//! when the taint was given, as the taint itself says, so a restart neither shortens nor lengthens it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::meta::{is_terminating, name, namespace};
use crate::node_lifecycle::{BY_NODE, by_node};
use crate::nodes::{taints, tolerates};
use crate::pods;
use crate::runtime::{Action, Context, Controller, Key, Note, Plan, ReconcileError, Store, Wiring, clock};

struct TaintEviction {
    pods: Store<Pod>,
    nodes: Store<Node>,
}

/// Builds the loop; its keys are pods.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let pods = wiring.store::<Pod>();
    pods.add_index(BY_NODE, by_node);
    let on_node = pods.clone();
    let nodes = wiring.on::<Node>(move |change, queue| {
        let evicting = |node: &Node| {
            taints(node).iter().filter(|t| t.effect == "NoExecute").cloned().collect::<Vec<_>>()
        };
        let (old, new) = (change.old.as_deref().map(evicting), change.new.as_deref().map(evicting));
        if let (Some(node), true) = (&change.new, old.unwrap_or_default() != new.unwrap_or_default()) {
            on_node.by(BY_NODE, name(node.as_ref())).iter().for_each(|pod| queue.add(Key::of(pod.as_ref())));
        }
    });
    let all = nodes.clone();
    wiring.on::<Pod>(move |change, queue| {
        let Some(pod) = &change.new else { return };
        let facts = |pod: &Pod| {
            (pods::node_name(pod).to_string(), pod.spec.as_ref().and_then(|s| s.tolerations.clone()))
        };
        let same = change.old.as_ref().is_some_and(|old| facts(old) == facts(pod));
        let tainted = || all.named("", pods::node_name(pod)).is_some_and(|node| has_evicting(&node));
        if !same && tainted() {
            queue.add(Key::of(pod.as_ref()));
        }
    });
    Box::new(TaintEviction { pods, nodes })
}

fn has_evicting(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.effect == "NoExecute")
}

/// When a pod must go because of a taint; `None` when it may stay.
fn due(tolerations: &[Toleration], taint: &Taint, now: Timestamp) -> Option<Timestamp> {
    let fitting: Vec<&Toleration> =
        tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if fitting.is_empty() {
        return Some(now);
    }
    let secs = fitting.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
    let given = taint.time_added.as_ref().map_or(now, |at| at.0);
    Some(clock::add(given, Duration::from_secs(u64::try_from(secs).unwrap_or(0))))
}

impl Controller for TaintEviction {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(pod) = self.pods.get(key).filter(|pod| !is_terminating(pod.as_ref())) else {
            return Ok(plan);
        };
        let Some(node) = self.nodes.named("", pods::node_name(&pod)) else { return Ok(plan) };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or(&[]);
        let evicting = taints(&node).iter().filter(|taint| taint.effect == "NoExecute");
        let Some(at) = evicting.filter_map(|taint| due(tolerations, taint, context.now)).min() else {
            return Ok(plan);
        };
        let left = clock::until(at, context.now);
        if left.is_zero() {
            evict(&pod, context, &mut plan);
        } else {
            plan.again_after(left);
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        8
    }
}

fn evict(pod: &Pod, context: &Context, plan: &mut Plan) {
    let message = "Taint manager: deleting due to NoExecute taint";
    let marked = pods::condition(pod, "DisruptionTarget").is_some_and(|c| c.status == "True");
    if !marked {
        let mut conditions =
            pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.retain(|condition| condition.type_ != "DisruptionTarget");
        conditions.push(k8s_openapi::api::core::v1::PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByTaintManager".into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(context.now)),
            ..Default::default()
        });
        let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
        let body = json!({"metadata": meta, "status": {"conditions": conditions}});
        plan.act(Action::merge_status(pod, body).tolerating(&[404]));
    }
    let told = format!("Marking for deletion Pod {}/{}", namespace(pod), name(pod));
    plan.note(Note::normal(pod, "TaintManagerEviction", told));
    plan.act(Action::delete(pod));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::Case;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn node() -> Value {
        json!({"kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": crate::testing::NOW}]}})
    }

    fn pod(tolerations: Value) -> Value {
        json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations}, "status": {"phase": "Running"}})
    }

    #[test]
    fn tolerance_decides() {
        let gone = "patch /api/v1/namespaces/ns/pods/p/status\ndelete /api/v1/namespaces/ns/pods/p";
        let cases = [
            (Value::Null, gone, None),
            (json!([{"key": "k", "operator": "Exists"}]), "", None),
            (json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 30}]), "", Some(30)),
        ];
        for (tolerations, expected, again) in cases {
            let objects = [node(), pod(tolerations.clone())];
            let plan = Case::new(super::build, &objects).plan("ns/p");
            assert_eq!(plan.summary(), expected, "{tolerations}");
            assert_eq!(plan.again_after.map(|delay| delay.as_secs()), again);
        }
    }

    #[test]
    fn crashes() {
        let tolerations = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 30}]);
        let scenario = Scenario::new(&[super::build], &[node(), pod(tolerations)]);
        let mut world = World::start(&scenario, None, false);
        world.run();
        let pod = world.shared.model.lock().get("Pod", "ns", "p").expect("going");
        assert!(!pod["metadata"]["deletionTimestamp"].is_null());
        check_crashes(&scenario);
    }
}
