//! Which pod must go when a resource is short, and what its users are told. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::thresholds::{Due, Resource};
use crate::kubelet::pod::qos::SYSTEM_CRITICAL_PRIORITY;
use crate::kubelet::pod::spec;
use crate::kubelet::quantity;
use crate::kubelet::worker::admission::requests;

/// One pod as a candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses of the short resource: bytes, inodes or processes.
    pub used: u64,
    /// What each of its containers uses of it, where that is known.
    pub containers: BTreeMap<String, u64>,
}

/// Critical and static pods stay whatever happens.
pub fn is_evictable(pod: &Pod) -> bool {
    !spec::is_static(pod)
        && !spec::is_mirror(pod)
        && spec::spec(pod).priority.unwrap_or(0) < SYSTEM_CRITICAL_PRIORITY
        && pod.metadata.deletion_timestamp.is_none()
}

/// The pod to evict: one that uses more than it asked for, of the lowest priority, with the largest excess. Nobody asks
/// for processes or inodes: there priority and use alone count.
pub fn choose(candidates: &[Candidate], resource: Resource) -> Option<&Candidate> {
    let excess = |c: &Candidate| i128::from(c.used) - requests(&c.pod, resource.name()) / quantity::NANO;
    let priority = |c: &Candidate| spec::spec(&c.pod).priority.unwrap_or(0);
    let asked_for = matches!(resource, Resource::Memory | Resource::Disk);
    candidates
        .iter()
        .filter(|c| is_evictable(&c.pod))
        .min_by_key(|c| (asked_for && excess(c) <= 0, priority(c), Reverse(excess(c))))
}

/// The message of the pod's status and event, in upstream's words.
pub fn message(due: &Due, all: u64, chosen: &Candidate) -> String {
    let resource = due.resource;
    let show = |n: u64| if bytes(resource) { quantity::exact_bytes(n) } else { n.to_string() };
    let wanted = show(super::thresholds::amount(&due.threshold.value, all));
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {wanted}, available: {}. ",
        resource.name(),
        show(due.left)
    );
    for container in spec::containers(&chosen.pod) {
        let Some(used) = chosen.containers.get(&container.name) else { continue };
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let request = requests.and_then(|r| r.get(resource.name()));
        if i128::from(*used) > request.map_or(0, quantity::nano) / quantity::NANO {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {}. ",
                container.name,
                show(*used),
                request.map_or("0", |q| q.0.as_str()),
                resource.name()
            ));
        }
    }
    text
}

fn bytes(resource: Resource) -> bool {
    matches!(resource, Resource::Memory | Resource::Disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::eviction::thresholds::Threshold;
    use serde_json::json;

    fn candidate(name: &str, priority: i32, request_mi: u64, used_mi: u64) -> Candidate {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"memory": format!("{request_mi}Mi")}}}]}}))
        .expect("a pod");
        let used = used_mi << 20;
        Candidate { pod: Arc::new(pod), used, containers: BTreeMap::from([("c".to_owned(), used)]) }
    }

    fn check(candidates: &[Candidate], resource: Resource, expected: Option<&str>) {
        assert_eq!(choose(candidates, resource).map(|c| spec::name(&c.pod)), expected);
    }

    #[test]
    fn excess_then_priority_then_amount() {
        use Resource::{Memory, Pids};
        check(&[candidate("within", 0, 100, 50), candidate("over", 10, 10, 50)], Memory, Some("over"));
        check(&[candidate("low", 0, 10, 20), candidate("high", 5, 10, 500)], Memory, Some("low"));
        check(&[candidate("a", 0, 10, 20), candidate("b", 0, 10, 90)], Memory, Some("b"));
        check(&[candidate("critical", SYSTEM_CRITICAL_PRIORITY, 0, 90)], Memory, None);
        check(&[candidate("a", 0, 100, 20), candidate("b", 0, 10, 30)], Pids, Some("b"));
        check(&[], Memory, None);
    }

    #[test]
    fn messages_are_upstreams() {
        let threshold = Threshold {
            signal: "memory.available".into(),
            value: "100Mi".into(),
            grace: None,
            min_reclaim: None,
        };
        let due = Due { threshold, resource: Resource::Memory, left: 50 << 20 };
        assert_eq!(
            message(&due, 1 << 30, &candidate("p", 0, 5, 10)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
            Container c was using 10Mi, request is 5Mi, has larger consumption of memory. "
        );
    }
}
