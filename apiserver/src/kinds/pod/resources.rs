//! What a pod asks for in total, and its quality-of-service class. Pure.
//!
//! Source: upstream `component-helpers/resource` and `apis/core/v1/helper/qos`.

use std::collections::BTreeMap;

use machinery::quantity::Quantity;
use serde_json::Value;

use crate::contract::Object;
use crate::kinds::checks::quantity;
use crate::kinds::json::{at, entries, items, text};

/// Quantities by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Whether requests may stay below limits for this resource: the native ones except huge pages.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Names without a domain, or in `kubernetes.io/`.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources that may be given for a pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, &["restartPolicy"]) == "Always"
}

/// The effective requests of all containers of a PodSpec, without overhead and pod-level ones.
pub fn aggregate_requests(spec: &Value) -> Amounts {
    aggregate(spec, "requests")
}

/// The effective limits, likewise.
pub fn aggregate_limits(spec: &Value) -> Amounts {
    aggregate(spec, "limits")
}

/// What containers come to, with the pod's own amounts where it has some; without overhead.
pub fn effective(spec: &Value, which: &str) -> Amounts {
    let mut total = aggregate(spec, which);
    for (name, value) in entries(spec, &["resources", which]) {
        if let (true, Some(amount)) = (is_pod_level(name), quantity(value)) {
            total.insert(name.to_owned(), amount);
        }
    }
    total
}

/// What the scheduler and quota count for a pod: containers, pod-level requests, overhead.
pub fn pod_amounts(pod: &Object, which: &str) -> Amounts {
    let spec = at(pod, &["spec"]);
    let mut total = effective(spec, which);
    let overhead = amounts(at(spec, &["overhead"]));
    // Overhead only raises limits that are set: none means without bound.
    let keep = |name: &String| which == "requests" || total.contains_key(name);
    let overhead: Amounts = overhead.into_iter().filter(|(name, _)| keep(name)).collect();
    add(&mut total, &overhead);
    total
}

/// The quantities of a resource list.
pub fn amounts(list: &Value) -> Amounts {
    entries(list, &[]).filter_map(|(name, value)| Some((name.to_owned(), quantity(value)?))).collect()
}

/// Adds each quantity.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |old| *old + *amount);
        total.insert(name.clone(), sum);
    }
}

/// Keeps the larger of each quantity.
pub fn max(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|old| old < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

fn aggregate(spec: &Value, which: &str) -> Amounts {
    let of = |container: &Value| amounts(at(container, &["resources", which]));
    let mut total = Amounts::new();
    for container in items(spec, &["containers"]) {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut init_peak) = (Amounts::new(), Amounts::new());
    for container in items(spec, &["initContainers"]) {
        let mut here = of(container);
        if is_sidecar(container) {
            add(&mut total, &here);
            add(&mut sidecars, &here);
            here = sidecars.clone();
        } else {
            add(&mut here, &sidecars);
        }
        max(&mut init_peak, &here);
    }
    max(&mut total, &init_peak);
    total
}

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Object) -> &'static str {
    let spec = at(pod, &["spec"]);
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut guaranteed = true;
    let pod_level = at(spec, &["resources"]);
    if pod_level.is_null() {
        for container in items(spec, &["containers"]).iter().chain(items(spec, &["initContainers"])) {
            let own_limits = counted(at(container, &["resources", "limits"]));
            guaranteed &= own_limits.len() == 2;
            add(&mut requests, &counted(at(container, &["resources", "requests"])));
            add(&mut limits, &own_limits);
        }
    } else {
        requests = counted(at(pod_level, &["requests"]));
        limits = counted(at(pod_level, &["limits"]));
        guaranteed = at(pod_level, &["limits"]).is_null() || limits.len() == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, amount)| limits.get(name) == Some(amount));
    if guaranteed && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

/// CPU and memory of the list, those above zero.
fn counted(list: &Value) -> Amounts {
    let mut amounts = amounts(list);
    amounts.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0);
    amounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let check =
            |spec: Value, expected: &str| assert_eq!(qos_class(&json!({ "spec": spec })), expected, "{spec}");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        check(json!({"containers": [{}]}), "BestEffort");
        check(json!({"containers": [{"resources": {"limits": both, "requests": both}}]}), "Guaranteed");
        check(json!({"containers": [{"resources": {"limits": both, "requests": both}}, {}]}), "Burstable");
        check(json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}), "Burstable");
        check(json!({"containers": [{"resources": {"requests": {"cpu": "0"}}}]}), "BestEffort");
        check(json!({"containers": [{}], "resources": {"limits": both, "requests": both}}), "Guaranteed");
        check(
            json!({"containers": [{"resources": {"limits": both, "requests": {"cpu": "500m", "memory": "1Gi"}}}]}),
            "Burstable",
        );
    }

    #[test]
    fn init_containers_peak_and_sidecars_stay() {
        let cpu = |amount: &str| json!({"resources": {"requests": {"cpu": amount}}});
        let mut sidecar = cpu("1");
        sidecar["restartPolicy"] = json!("Always");
        let check = |init: Vec<Value>, expected: &str| {
            let spec = json!({"initContainers": init, "containers": [cpu("2")]});
            assert_eq!(aggregate_requests(&spec)["cpu"].to_string(), expected);
        };
        check(vec![], "2");
        check(vec![cpu("5")], "5");
        check(vec![sidecar.clone()], "3");
        check(vec![sidecar.clone(), cpu("4")], "5");
        check(vec![cpu("1"), sidecar], "3");
    }
}
