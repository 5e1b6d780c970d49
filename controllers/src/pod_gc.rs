//! Pods that nobody else removes: finished ones beyond a limit, those bound to nodes that are gone, those being
//! deleted before they were ever bound, and those being deleted on nodes that are out of service.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;

use jiff::Timestamp;

use crate::meta::{created_at, is_terminating, name};
use crate::nodes;
use crate::pods;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Gvr, Key, Pace, Plan, ReconcileError, Store, Verb, Wiring,
    clock,
};

/// Between two sweeps (upstream's).
const PERIOD: Duration = Duration::from_secs(20);
/// A node must have been missing for so long before its pods are called lost (upstream's quarantine).
const QUARANTINE: Duration = Duration::from_secs(40);
/// Taint of nodes whose machine is certainly down.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const SWEEP: &str = "sweep";

struct PodGc {
    pods: Store<Pod>,
    nodes: Store<Node>,
    threshold: usize,
    /// Since when nodes that pods name are missing. Losing it restarts the quarantine, no more.
    missing: Mutex<FxHashMap<String, Timestamp>>,
}

/// Builds the loop; its only key is the sweep.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let (pods, nodes) = (wiring.store::<Pod>(), wiring.store::<Node>());
    wiring.at_start(Key::cluster(SWEEP));
    let threshold = wiring.options().terminated_pod_threshold;
    Box::new(PodGc { pods, nodes, threshold, missing: Mutex::default() })
}

impl Controller for PodGc {
    fn reconcile(&self, _key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        plan.again_after(PERIOD);
        let pods = self.pods.all();
        let lost_nodes = match self.lost_nodes(&pods, context) {
            Ok(lost) => lost,
            Err(asks) => return Ok(Plan { asks, ..plan }),
        };
        let mut batches: Vec<(Vec<Action>, Vec<Action>)> = Vec::new();
        for pod in &pods {
            let node = pods::node_name(pod);
            if lost_nodes.contains(node) {
                batches.push(remove(pod, "PodGC: node no longer exists"));
            } else if is_terminating(pod.as_ref()) && (node.is_empty() || self.is_out_of_service(node)) {
                batches.push(remove(pod, ""));
            }
        }
        batches.extend(self.excess(&pods).iter().map(|pod| remove(pod, "")));
        let (marks, deletions): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
        plan.act_all(Pace::Parallel, marks.into_iter().flatten().collect());
        plan.act_all(Pace::Parallel, deletions.into_iter().flatten().collect());
        Ok(plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

impl PodGc {
    /// Nodes that pods name, that have been missing through the quarantine, and that the API server does not have.
    fn lost_nodes(&self, pods: &[Arc<Pod>], context: &Context) -> Result<FxHashSet<String>, Vec<Ask>> {
        let named: FxHashSet<&str> =
            pods.iter().map(|pod| pods::node_name(pod)).filter(|node| !node.is_empty()).collect();
        let absent: FxHashSet<&str> =
            named.into_iter().filter(|node| self.nodes.named("", node).is_none()).collect();
        let mut missing = self.missing.lock();
        missing.retain(|node, _| absent.contains(node.as_str()));
        let (mut lost, mut asks) = (FxHashSet::default(), Vec::new());
        for node in absent {
            let since = *missing.entry(node.to_string()).or_insert(context.now);
            if clock::since(since, context.now) < QUARANTINE {
                continue;
            }
            let ask = Ask::Get(Gvr::of::<Node>().object("", node));
            match context.answer(&ask) {
                None => asks.push(ask),
                Some(Answer::Failed(failure)) if failure.is_not_found() => {
                    lost.insert(node.to_string());
                }
                Some(_) => {}
            }
        }
        if asks.is_empty() { Ok(lost) } else { Err(asks) }
    }

    fn is_out_of_service(&self, node: &str) -> bool {
        let Some(node) = self.nodes.named("", node) else { return false };
        !nodes::is_ready(&node) && nodes::taints(&node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
    }

    /// Finished pods beyond the limit: evicted ones first, then the oldest.
    fn excess(&self, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let finished = pods.iter().filter(|pod| pods::is_finished(pod) && !is_terminating(pod.as_ref()));
        let mut finished: Vec<Arc<Pod>> = finished.cloned().collect();
        if self.threshold == 0 || finished.len() <= self.threshold {
            return Vec::new();
        }
        let evicted =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
        finished
            .sort_by_key(|pod| (!evicted(pod), created_at(&pod.metadata), name(pod.as_ref()).to_string()));
        finished.truncate(finished.len() - self.threshold);
        finished
    }
}

/// Marks a pod as failed if it has not finished (its owner must not wait for it), then deletes it at once.
fn remove(pod: &Pod, why: &str) -> (Vec<Action>, Vec<Action>) {
    let mut marks = Vec::new();
    if !pods::is_finished(pod) {
        let mut status = json!({"phase": "Failed"});
        if !why.is_empty() {
            let others = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let mut conditions: Vec<_> = others
                .filter(|c| c.type_ != "DisruptionTarget")
                .map(|c| serde_json::to_value(c).unwrap_or_default())
                .collect();
            conditions.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": why}));
            status["conditions"] = conditions.into();
        }
        marks.push(
            Action::merge_status(pod, json!({"metadata": {"uid": pod.metadata.uid}, "status": status}))
                .tolerating(&[404]),
        );
    }
    let mut delete = Action::delete(pod);
    if let Verb::Delete { grace_secs, .. } = &mut delete.verb {
        *grace_secs = Some(0);
    }
    (marks, vec![delete])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::options::Options;
    use crate::testing::check_with;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn pod(name: &str, node: &str, phase: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": name,
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}})
    }

    fn node(name: &str) -> Value {
        json!({"kind": "Node", "metadata": {"name": name}})
    }

    #[test]
    fn finished_pods_beyond_the_limit_go() {
        let options = Options { terminated_pod_threshold: 1, ..Options::default() };
        let pods = [node("n"), pod("a", "n", "Succeeded"), pod("b", "n", "Failed"), pod("c", "n", "Running")];
        check_with(super::build, &options, "sweep", &pods, "delete /api/v1/namespaces/ns/pods/a");
    }

    #[test]
    fn pods_of_lost_nodes_go_after_the_quarantine() {
        let objects = [node("n"), pod("kept", "n", "Running"), pod("lost", "gone", "Running")];
        let mut scenario = Scenario::new(&[super::build], &objects);
        scenario.horizon = std::time::Duration::from_secs(30);
        let left = |scenario: &Scenario| {
            World::start(scenario, None, false).run().shared.model.lock().all("Pod").len()
        };
        assert_eq!(left(&scenario), 2, "too early");
        scenario.horizon = std::time::Duration::from_secs(300);
        assert_eq!(left(&scenario), 1);
        check_crashes(&scenario);
    }

    #[test]
    fn unbound_pods_being_deleted_go() {
        let mut unbound = pod("p", "", "Pending");
        unbound["spec"]["nodeName"] = Value::Null;
        unbound["metadata"]["deletionTimestamp"] = crate::testing::NOW.into();
        let expected = "patch /api/v1/namespaces/ns/pods/p/status\ndelete /api/v1/namespaces/ns/pods/p";
        check_with(super::build, &Options::default(), "sweep", &[unbound], expected);
    }
}
