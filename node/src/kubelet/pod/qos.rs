//! Quality-of-service class and the out-of-memory score that follows from it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::spec;
use crate::kubelet::quantity;

/// Score of containers the machine cannot do without.
pub const OOM_SCORE_CRITICAL: i64 = -997;
/// Score of containers without requests.
pub const OOM_SCORE_BEST_EFFORT: i64 = 1000;
/// Priority from which a pod counts as critical to the machine.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A pod's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Limits equal requests for CPU and memory in every container.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

type List = BTreeMap<String, Quantity>;

fn amount(list: Option<&List>, resource: &str) -> i128 {
    list.and_then(|l| l.get(resource)).map_or(0, quantity::nano)
}

/// The pod's class: the API's if it has been set, else computed.
pub fn class(pod: &Pod) -> QosClass {
    let known = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    match known {
        Some("Guaranteed") => return QosClass::Guaranteed,
        Some("Burstable") => return QosClass::Burstable,
        Some("BestEffort") => return QosClass::BestEffort,
        _ => {}
    }
    let pod_level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    if let Some(resources) = pod_level.filter(|r| r.requests.is_some() || r.limits.is_some()) {
        return of_all(std::iter::once(resources));
    }
    let all: Vec<_> = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod))
        .map(|c| c.resources.clone().unwrap_or_default())
        .collect();
    of_all(all.iter())
}

fn of_all<'a>(resources: impl Iterator<Item = &'a ResourceRequirements>) -> QosClass {
    let (mut any, mut guaranteed) = (false, true);
    for r in resources {
        for resource in ["cpu", "memory"] {
            let (request, limit) =
                (amount(r.requests.as_ref(), resource), amount(r.limits.as_ref(), resource));
            any |= request > 0 || limit > 0;
            guaranteed &= limit > 0 && (request == 0 || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// The container's `oom_score_adj`. `memory_capacity_bytes` is the machine's memory.
pub fn oom_score_adj(pod: &Pod, container: &ContainerSpec, memory_capacity_bytes: u64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    if priority >= SYSTEM_CRITICAL_PRIORITY {
        return OOM_SCORE_CRITICAL;
    }
    match class(pod) {
        QosClass::Guaranteed => OOM_SCORE_CRITICAL,
        QosClass::BestEffort => OOM_SCORE_BEST_EFFORT,
        QosClass::Burstable => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let request = i64::try_from(amount(requests, "memory") / quantity::NANO).unwrap_or(i64::MAX);
            let capacity = i64::try_from(memory_capacity_bytes.max(1)).unwrap_or(i64::MAX);
            let score = 1000 - (1000_i128 * i128::from(request) / i128::from(capacity)) as i64;
            score.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(containers: Value, class_expected: &str, oom_expected: i64) {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod");
        assert_eq!(class(&pod).as_str(), class_expected);
        assert_eq!(oom_score_adj(&pod, &spec::containers(&pod)[0], 1 << 30), oom_expected);
    }

    #[test]
    fn classes_and_scores() {
        check(json!([{"name": "a"}]), "BestEffort", 1000);
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        check(json!([{"name": "a", "resources": full}]), "Guaranteed", -997);
        check(json!([{"name": "a", "resources": full}, {"name": "b"}]), "Burstable", 3);
        check(json!([{"name": "a", "resources": {"requests": {"memory": "512Mi"}}}]), "Burstable", 500);
        check(json!([{"name": "a", "resources": {"limits": {"cpu": "1"}}}]), "Burstable", 999);
    }
}
