//! The life of nodes: silence makes a node's state unknown, its conditions become taints, and taints that evict are
//! given at a limited rate per zone, so that a broken network does not empty a cluster.
//!
//! In reading order: [`signs`] (when a node was last heard of), [`zones`] (how fast taints that evict may be given),
//! [`taints`] (which taints conditions call for), this module (one run over one node).
//!
//! Signs of life are timed on a clock that never jumps, by when they were seen here: clocks of nodes do not matter.

pub mod signs;
pub mod taints;
#[cfg(test)]
mod tests;
pub mod zones;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::signs::Signs;
use self::zones::Zones;
use crate::meta::is_terminating;
use crate::nodes;
use crate::options::NodeOptions;
use crate::pods;
use crate::runtime::store::IndexValues;
use crate::runtime::{Action, Context, Controller, Key, Note, Pace, Plan, ReconcileError, Store, Wiring};

/// Namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
/// Index of pods by node.
pub const BY_NODE: &str = "node";
/// Conditions that become unknown with the node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The node of a pod, as an index value.
pub fn by_node(pod: &Pod) -> IndexValues {
    let node = pods::node_name(pod);
    if node.is_empty() { IndexValues::new() } else { IndexValues::from_elem(Arc::from(node), 1) }
}

struct NodeLifecycle {
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods: Store<Pod>,
    options: NodeOptions,
    signs: Mutex<Signs>,
    zones: Mutex<Zones>,
}

/// Builds the loop; its keys are nodes.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let nodes = wiring.on_self::<Node>();
    let leases = wiring.store::<Lease>();
    let pods = wiring.store::<Pod>();
    pods.add_index(BY_NODE, by_node);
    let options = wiring.options().nodes.clone();
    Box::new(NodeLifecycle { nodes, leases, pods, options, signs: Mutex::default(), zones: Mutex::default() })
}

impl Controller for NodeLifecycle {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(node) = self.nodes.get(key) else {
            self.signs.lock().forget(&key.name);
            return Ok(plan);
        };
        plan.again_after(self.options.monitor_period);
        let lease = self.leases.named(LEASES, &key.name);
        let silent = self.signs.lock().silent_for(&node, lease.as_deref(), context.elapsed);
        let judged = self.judge(&node, silent, context);
        if let Some(changed) = &judged {
            plan.act(Action::update_status(changed));
        }
        let state = judged.as_ref().unwrap_or(&node);
        if nodes::is_ready(&node) && !nodes::is_ready(state) {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            plan.note(Note::normal(node.as_ref(), "NodeNotReady", message));
        }
        if !nodes::is_ready(state) && nodes::condition(state, "Ready").is_some() {
            plan.act_all(Pace::Parallel, self.unready_pods(&key.name, context));
        }
        // The status write changes the resourceVersion; taints follow in the next run, which sees it.
        if judged.is_none() {
            self.taint(&node, context, &mut plan);
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        8
    }
}

impl NodeLifecycle {
    /// The node with unknown conditions, when it has been silent for too long and that is not written yet.
    fn judge(&self, node: &Node, silent: Duration, context: &Context) -> Option<Node> {
        let heard = nodes::condition(node, "Ready").is_some();
        let grace = if heard { self.options.monitor_grace } else { self.options.startup_grace };
        if silent <= grace {
            return None;
        }
        let mut changed = node.clone();
        let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut news = false;
        for kind in CONDITIONS {
            match conditions.iter_mut().find(|condition| condition.type_ == kind) {
                Some(condition) if condition.status == "Unknown" => {}
                Some(condition) => {
                    condition.status = "Unknown".into();
                    condition.reason = Some("NodeStatusUnknown".into());
                    condition.message = Some("Kubelet stopped posting node status.".into());
                    condition.last_transition_time = Some(Time(context.now));
                    news = true;
                }
                None => {
                    conditions.push(NodeCondition {
                        type_: kind.into(),
                        status: "Unknown".into(),
                        reason: Some("NodeStatusNeverUpdated".into()),
                        message: Some("Kubelet never posted node status.".into()),
                        last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                        last_transition_time: Some(Time(context.now)),
                    });
                    news = true;
                }
            }
        }
        news.then_some(changed)
    }

    /// Pods of a node that is not ready are not ready either, whatever they said last.
    fn unready_pods(&self, node: &str, context: &Context) -> Vec<Action> {
        let pods = self.pods.by(BY_NODE, node);
        let ready = pods.iter().filter(|pod| pods::is_ready(pod) && !is_terminating(pod.as_ref()));
        ready.map(|pod| unready(pod, context)).collect()
    }

    fn taint(&self, node: &Node, context: &Context, plan: &mut Plan) {
        let all = self.nodes.all();
        let mut zones = self.zones.lock();
        zones.observe(&all, &self.options);
        let wanted = taints::wanted(node, context.now, &mut |evicted_already: bool| match zones.admit(
            node,
            evicted_already,
            context.elapsed,
            &self.options,
        ) {
            Ok(()) => true,
            Err(wait) => {
                wait.into_iter().for_each(|wait| plan.again_after(wait));
                false
            }
        });
        if let Some(wanted) = wanted {
            let meta = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
            let list = if wanted.is_empty() { Value::Null } else { json!(wanted) };
            plan.act(
                Action::merge(node, json!({"metadata": meta, "spec": {"taints": list}})).tolerating(&[404]),
            );
        }
    }
}

fn unready(pod: &Pod, context: &Context) -> Action {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".into();
        condition.last_transition_time = Some(Time(context.now));
    }
    let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
    let body = json!({"metadata": meta, "status": {"conditions": conditions}});
    // A conflict means that someone wrote the pod's status just now; the next look sees what.
    Action::merge_status(pod, body).tolerating(&[404, 409]).noting(Note::warning(
        pod,
        "NodeNotReady",
        "Node is not ready",
    ))
}
