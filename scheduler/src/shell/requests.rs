//! What a pod asks of a node: the arithmetic over containers, init containers, sidecars, overhead and pod-level
//! resources.
//!
//! Owns the formula of pod requests (sum of containers and sidecars, against the largest init step; then
//! pod-level values; then overhead), also for pods being resized in place, whose status counts as well.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::quantity::{Format, Quantity};

use crate::core::spec::Resources;

use super::wire::{Amounts, Container, ContainerStatus, Pod};

/// CPU counted for a container that requests none, in millicores.
const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory counted for a container that requests none, in bytes.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Quantity>;

/// The requests of a pod in the ways they are counted.
pub struct Requests {
    pub requests: Resources,
    pub score_milli_cpu: i64,
    pub score_memory: i64,
    pub nonzero_milli_cpu: i64,
    pub nonzero_memory: i64,
}

/// Computes the requests of a pod.
pub fn of(pod: &Pod) -> Requests {
    let plain = pod_requests(pod, &List::new());
    let defaults: List = [
        ("cpu".to_owned(), Quantity::from_milli(DEFAULT_MILLI_CPU, Format::DecimalSi)),
        ("memory".to_owned(), Quantity::from_i64(DEFAULT_MEMORY, Format::DecimalSi)),
    ]
    .into();
    let scored = pod_requests(pod, &defaults);
    let nonzero = if has_pod_level(pod) {
        let missing: List = defaults.into_iter().filter(|(name, _)| !plain.contains_key(name)).collect();
        if missing.is_empty() { plain.clone() } else { pod_requests(pod, &missing) }
    } else {
        scored.clone()
    };
    let milli_cpu = |list: &List| list.get("cpu").map_or(0, |q| q.milli_value());
    let memory = |list: &List| list.get("memory").map_or(0, |q| q.value());
    Requests {
        score_milli_cpu: milli_cpu(&scored),
        score_memory: memory(&scored),
        nonzero_milli_cpu: milli_cpu(&nonzero),
        nonzero_memory: memory(&nonzero),
        requests: resources(plain.iter().map(|(name, q)| (name.as_str(), *q))),
    }
}

/// Amounts by name as the core counts them; names it does not schedule by are left out.
pub fn resources<'a>(amounts: impl Iterator<Item = (&'a str, Quantity)>) -> Resources {
    let mut all = Resources::default();
    for (name, quantity) in amounts {
        match name {
            "cpu" => all.milli_cpu = quantity.milli_value(),
            "memory" => all.memory = quantity.value(),
            "ephemeral-storage" => all.ephemeral = quantity.value(),
            "pods" => {}
            name if is_scalar(name) && !quantity.is_zero() => {
                all.scalars.push((Arc::from(name), quantity.value()));
            }
            _ => {}
        }
    }
    all.scalars.sort();
    all
}

/// Extended resources, huge pages, attachable volumes and others in Kubernetes' own domain.
fn is_scalar(name: &str) -> bool {
    let extended = name.contains('/') && !name.starts_with("requests.");
    extended || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn has_pod_level(pod: &Pod) -> bool {
    pod.spec.resources.as_ref().is_some_and(|r| r.requests.keys().any(|name| is_pod_level(name)))
}

fn pod_requests(pod: &Pod, missing: &List) -> List {
    let mut total = container_requests(pod, missing);
    if has_pod_level(pod)
        && let Some(wanted) = &pod.spec.resources
    {
        let effective = pod.status.resources.as_ref().map(|actual| {
            effective(pod, &wanted.requests, &actual.requests, &pod.status.allocated_resources)
        });
        for (name, quantity) in wanted.requests.iter().filter(|(name, _)| is_pod_level(name)) {
            let value = effective.as_ref().and_then(|e| e.get(name)).copied().unwrap_or(quantity.0);
            total.insert(name.clone(), value);
        }
    }
    for (name, quantity) in &pod.spec.overhead {
        add(&mut total, name, quantity.0);
    }
    total
}

fn container_requests(pod: &Pod, missing: &List) -> List {
    let mut total = List::new();
    for container in &pod.spec.containers {
        let wanted = requests_of(pod, container, &pod.status.container_statuses, missing);
        wanted.iter().for_each(|(name, q)| add(&mut total, name, *q));
    }
    let mut sidecars = List::new();
    let mut largest = List::new();
    for container in &pod.spec.init_containers {
        let is_sidecar = container.restart_policy == "Always";
        let statuses: &[ContainerStatus] = if is_sidecar { &pod.status.init_container_statuses } else { &[] };
        let wanted = requests_of(pod, container, statuses, missing);
        let mut step = sidecars.clone();
        wanted.iter().for_each(|(name, q)| add(&mut step, name, *q));
        if is_sidecar {
            wanted.iter().for_each(|(name, q)| add(&mut total, name, *q));
            sidecars = step.clone();
        }
        raise(&mut largest, &step);
    }
    raise(&mut total, &largest);
    total
}

fn requests_of(pod: &Pod, container: &Container, statuses: &[ContainerStatus], missing: &List) -> List {
    let status = statuses.iter().find(|s| s.name == container.name);
    let mut wanted = match status.and_then(|s| Some((s.resources.as_ref()?, &s.allocated_resources))) {
        Some((actual, allocated)) => {
            effective(pod, &container.resources.requests, &actual.requests, allocated)
        }
        None => container.resources.requests.iter().map(|(name, q)| (name.clone(), q.0)).collect(),
    };
    for (name, quantity) in missing {
        wanted.entry(name.clone()).or_insert(*quantity);
    }
    wanted
}

/// While a resize is under way the largest of wanted, allocated and actual counts; a resize that cannot happen
/// does not.
fn effective(pod: &Pod, wanted: &Amounts, actual: &Amounts, allocated: &Amounts) -> List {
    let infeasible = pod
        .status
        .conditions
        .iter()
        .find(|c| c.kind == "PodResizePending")
        .is_some_and(|c| c.reason == "Infeasible");
    let mut all = List::new();
    let lists = [(!infeasible).then_some(wanted), Some(actual), Some(allocated)];
    for list in lists.into_iter().flatten() {
        raise(&mut all, &list.iter().map(|(name, q)| (name.clone(), q.0)).collect());
    }
    all
}

fn add(total: &mut List, name: &str, quantity: Quantity) {
    match total.get_mut(name) {
        Some(have) => *have += quantity,
        None => drop(total.insert(name.to_owned(), quantity)),
    }
}

fn raise(total: &mut List, other: &List) {
    for (name, quantity) in other {
        let have = total.entry(name.clone()).or_insert(*quantity);
        if *quantity > *have {
            *have = *quantity;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: (i64, i64, i64, i64)) {
        let pod: Pod = serde_json::from_str(&format!("{{\"spec\":{spec}}}")).expect(spec);
        let got = of(&pod);
        let all = (got.requests.milli_cpu, got.requests.memory, got.nonzero_milli_cpu, got.nonzero_memory);
        assert_eq!(all, expected, "{spec}");
    }

    #[test]
    fn containers_are_summed_and_init_containers_are_a_floor() {
        let c = |cpu: &str, memory: &str| {
            format!(r#"{{"name":"x","resources":{{"requests":{{"cpu":"{cpu}","memory":"{memory}"}}}}}}"#)
        };
        let two = format!("[{},{}]", c("2", "1000"), c("1", "1000"));
        let init = format!("[{},{}]", c("2", "1000"), c("2", "3000"));
        check(&format!(r#"{{"containers":{two},"initContainers":{init}}}"#), (3000, 3000, 3000, 3000));
    }

    #[test]
    fn sidecars_run_beside_later_steps() {
        let spec = r#"{"containers":[{"resources":{"requests":{"cpu":"1"}}}],"initContainers":[
            {"restartPolicy":"Always","resources":{"requests":{"cpu":"2"}}},{"resources":{"requests":{"cpu":"5"}}}]}"#;
        check(spec, (7000, 0, 7000, 419_430_400));
    }

    #[test]
    fn containers_without_requests_count_defaults_for_scores_only() {
        check(r#"{"containers":[{},{"resources":{"requests":{"cpu":"10m"}}}]}"#, (10, 0, 110, 419_430_400));
    }

    #[test]
    fn pod_level_requests_replace_sums_and_overhead_comes_on_top() {
        let spec = r#"{"resources":{"requests":{"cpu":"500m"}},"overhead":{"cpu":"50m","memory":"10"},
            "containers":[{"resources":{"requests":{"cpu":"100m","memory":"100"}}},{}]}"#;
        check(spec, (550, 110, 550, 110));
    }
}
