//! When a volume may be taken from a node that no longer needs it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use crate::nodes;
use crate::runtime::{Answer, Ask, Context, Gvr};

/// After so long an unhealthy node counts as not coming back to unmount.
pub const MAX_WAIT: Duration = Duration::from_secs(6 * 60);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Whether an operator has declared the node shut down for good.
pub fn is_out_of_service(node: &Node) -> bool {
    nodes::taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// What is known when a volume is no longer wanted.
pub struct Situation<'a> {
    /// The node, if it exists.
    pub node: Option<&'a Node>,
    /// Its name.
    pub node_name: &'a str,
    /// The volume in the node's status.
    pub unique: &'a str,
    /// For how long it has not been wanted.
    pub unwanted_for: Duration,
    /// Whether waiting too long counts as permission.
    pub by_force: bool,
}

/// The decision.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Detach,
    /// The node has it mounted; look again after so long.
    Wait(Duration),
    /// This must be known first.
    Ask(Ask),
}

fn mounts(node: &Node, unique: &str) -> bool {
    let in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.as_ref());
    in_use.is_some_and(|in_use| in_use.iter().any(|have| have == unique))
}

/// Decides.
pub fn judge(case: &Situation, context: &Context) -> Verdict {
    if case.node.is_some_and(is_out_of_service) {
        return Verdict::Detach;
    }
    let waited = case.unwanted_for > MAX_WAIT && case.by_force;
    let is_healthy = case.node.is_some_and(nodes::is_ready);
    // A node that is gone cannot say that it has unmounted; it counts as having the volume.
    let mounted = case.node.is_none_or(|node| mounts(node, case.unique));
    if waited && (!is_healthy || !mounted) {
        return Verdict::Detach;
    }
    if mounted {
        let left = MAX_WAIT.saturating_sub(case.unwanted_for);
        return Verdict::Wait(left.max(Duration::from_secs(1)));
    }
    let ask = Ask::Get(Gvr::of::<Node>().object("", case.node_name));
    match context.answer(&ask) {
        None => Verdict::Ask(ask),
        Some(Answer::Json(live)) if !mounts_live(live, case.unique) => Verdict::Detach,
        Some(Answer::Failed(failure)) if failure.is_not_found() => Verdict::Detach,
        Some(_) => Verdict::Wait(Duration::from_secs(1)),
    }
}

fn mounts_live(node: &Value, unique: &str) -> bool {
    let in_use = node["status"]["volumesInUse"].as_array();
    in_use.is_some_and(|in_use| in_use.iter().any(|have| have == unique))
}
