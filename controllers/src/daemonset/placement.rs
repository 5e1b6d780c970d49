//! Which nodes a DaemonSet's pod runs on, and the pod for one node.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use crate::meta::name;
use crate::nodes;
use crate::pods;

/// What a node means to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// A pod belongs there.
    pub should_run: bool,
    /// A pod that is there may stay.
    pub should_continue: bool,
}

/// Taints every daemon pod lives with: (key, effect).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same for pods in the host's network.
const TOLERATED_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Judges a node.
pub fn suitability(set: &DaemonSet, node: &Node) -> Placed {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return Placed { should_run: false, should_continue: false };
    };
    let named = template.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name(node));
    if !named || !nodes::matches(template, node) {
        return Placed { should_run: false, should_continue: false };
    }
    let tolerations = with_daemon_tolerations(template);
    Placed {
        should_run: nodes::accepts(&tolerations, node, &["NoExecute", "NoSchedule"]),
        should_continue: nodes::accepts(&tolerations, node, &["NoExecute"]),
    }
}

/// Whether a change of a node can change where daemon pods run.
pub fn is_placement_changed(old: Option<&Node>, new: Option<&Node>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    old.metadata.labels != new.metadata.labels || nodes::taints(old) != nodes::taints(new)
}

fn with_daemon_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false).then_some(TOLERATED_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(host_network) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

/// The node a pod runs on or is meant for.
pub fn target_node(pod: &Pod) -> String {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return bound.to_string();
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required
        .into_iter()
        .flat_map(|r| &r.node_selector_terms)
        .flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.into_iter().find(|f| f.key == "metadata.name" && f.operator == "In");
    named.and_then(|f| f.values.as_ref()?.first().cloned()).unwrap_or_default()
}

/// The pod for a node.
pub fn pod_for(set: &DaemonSet, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, set, &pods::name_prefix(name(set)));
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(with_daemon_tolerations(spec));
    pin(spec, node);
    pod
}

/// Ties a pod to one node, within whatever affinity it has.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_string()]),
    };
    let affinity: &mut NodeAffinity =
        spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.take();
    let mut terms = required.map(|required| required.node_selector_terms).unwrap_or_default();
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in &mut terms {
        term.match_fields = Some(vec![field.clone()]);
    }
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: terms });
}
