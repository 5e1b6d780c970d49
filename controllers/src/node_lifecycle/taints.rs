//! The taints that a node's conditions call for: some keep new pods away, two evict.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::nodes;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, status, taint.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(Time(now)) }
}

/// The node's taints as they should be; `None` when they are. `admit` is asked whether a node may have a taint that
/// evicts, and told whether it has one already.
pub fn wanted(node: &Node, now: Timestamp, admit: &mut dyn FnMut(bool) -> bool) -> Option<Vec<Taint>> {
    let have = nodes::taints(node);
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for (condition, status, key) in BY_CONDITION {
        if nodes::condition(node, condition) == Some(status) {
            keys.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let evicting = match nodes::condition(node, "Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    let evicted_already = have.iter().any(|taint| is_ours(taint) && taint.effect == "NoExecute");
    if let Some(key) = evicting
        && admit(evicted_already)
    {
        keys.push((key, "NoExecute"));
    }
    let mut list: Vec<Taint> = have.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    for (key, effect) in keys {
        let old = have.iter().find(|taint| taint.key == key && taint.effect == effect);
        list.push(old.cloned().unwrap_or_else(|| taint(key, effect, now)));
    }
    let same = list.len() == have.len() && list.iter().all(|taint| have.contains(taint));
    (!same).then_some(list)
}
