//! What a namespace uses, by the names that quotas use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::{Format, Quantity};

use super::{Caches, number, scopes};
use crate::meta::namespace;
use crate::pods;

type Resources = BTreeMap<String, Quantity>;

/// Used amounts by name.
#[derive(Default)]
pub struct Usage {
    used: Resources,
}

fn one() -> Quantity {
    Quantity::from_i64(1, Format::DecimalSi)
}

fn add(into: &mut Resources, name: &str, amount: Quantity) {
    let sum = into.get(name).map_or(amount, |have| *have + amount);
    into.insert(name.to_string(), sum);
}

fn max(into: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let more = into.get(name).is_none_or(|have| amount > have);
        if more {
            into.insert(name.clone(), *amount);
        }
    }
}

impl Usage {
    /// Counts what a quota is about.
    pub fn of(quota: &ResourceQuota, caches: &Caches) -> Self {
        let space = namespace(quota);
        let mut usage = Self::default();
        for pod in caches.pods.in_namespace(space) {
            // Finished pods hold nothing any more.
            if !pods::is_finished(&pod) && scopes::counts_pod(quota, &pod) {
                usage.add_pod(&pod);
            }
        }
        for claim in caches.claims.in_namespace(space) {
            let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
            let current = claim
                .status
                .as_ref()
                .and_then(|status| status.current_volume_attributes_class_name.as_deref());
            if scopes::counts_claim(quota, &[wanted, current]) {
                usage.add_claim(&claim);
            }
        }
        if scopes::is_unscoped(quota) {
            caches.services.in_namespace(space).iter().for_each(|service| usage.add_service(service));
            usage.add_counts(space, caches);
        }
        usage
    }

    /// Sets an amount.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        self.used.insert(name.to_string(), amount);
    }

    /// An amount as the API writes it. An amount that has not changed keeps its notation.
    pub fn get(&self, name: &str, old: &ResourceQuotaStatus) -> Text {
        let amount = self.used.get(name).copied().unwrap_or(Quantity::from_i64(0, Format::DecimalSi));
        let written = old.used.as_ref().and_then(|used| used.get(name)).filter(|text| number(text) == amount);
        written.cloned().unwrap_or_else(|| Text(amount.to_string()))
    }

    fn add_counts(&mut self, space: &str, caches: &Caches) {
        for (name, count) in &caches.counts {
            if *name == "pods" || *name == "persistentvolumeclaims" {
                continue;
            }
            let amount =
                Quantity::from_i64(i64::try_from(count(space)).unwrap_or(i64::MAX), Format::DecimalSi);
            self.set(&format!("count/{name}"), amount);
            // Core kinds are known by their bare names too.
            if !name.contains('.') {
                self.set(name, amount);
            }
        }
    }

    fn add_pod(&mut self, pod: &Pod) {
        add(&mut self.used, "pods", one());
        add(&mut self.used, "count/pods", one());
        for (kind, requests) in [("requests", true), ("limits", false)] {
            for (name, amount) in pod_resources(pod, requests) {
                add(&mut self.used, &format!("{kind}.{name}"), amount);
                // Requests of these go by their bare names too.
                if requests
                    && (matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                        || name.starts_with("hugepages-"))
                {
                    add(&mut self.used, &name, amount);
                }
            }
        }
    }

    fn add_claim(&mut self, claim: &PersistentVolumeClaim) {
        let spec = claim.spec.as_ref();
        let asked =
            spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage")).map(number);
        let allocated = claim
            .status
            .as_ref()
            .and_then(|status| status.allocated_resources.as_ref()?.get("storage"))
            .map(number);
        let storage = asked.into_iter().chain(allocated).max();
        let class =
            spec.and_then(|spec| spec.storage_class_name.as_deref()).filter(|class| !class.is_empty());
        let prefixes =
            [Some(String::new()), class.map(|class| format!("{class}.storageclass.storage.k8s.io/"))];
        for prefix in prefixes.into_iter().flatten() {
            add(&mut self.used, &format!("{prefix}persistentvolumeclaims"), one());
            if let Some(storage) = storage {
                add(&mut self.used, &format!("{prefix}requests.storage"), storage);
            }
        }
        add(&mut self.used, "count/persistentvolumeclaims", one());
    }

    fn add_service(&mut self, service: &Service) {
        let Some(spec) = &service.spec else { return };
        let ports = spec.ports.as_ref().map_or(0, Vec::len);
        let number = |n: usize| Quantity::from_i64(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
        match spec.type_.as_deref() {
            Some("NodePort") => add(&mut self.used, "services.nodeports", number(ports)),
            Some("LoadBalancer") => {
                add(&mut self.used, "services.loadbalancers", one());
                let with_ports =
                    spec.ports.iter().flatten().filter(|port| port.node_port.is_some_and(|p| p != 0)).count();
                let all = spec.allocate_load_balancer_node_ports.unwrap_or(true);
                add(&mut self.used, "services.nodeports", number(if all { ports } else { with_ports }));
            }
            _ => {}
        }
    }
}

fn container_resources(container: &Container, requests: bool) -> Resources {
    let resources = container.resources.as_ref();
    let map = resources.and_then(|r| if requests { r.requests.as_ref() } else { r.limits.as_ref() });
    map.into_iter().flatten().map(|(name, text)| (name.clone(), number(text))).collect()
}

/// What a pod takes: the larger of its containers' sum and of what starting needs, plus its overhead. Init containers
/// that keep running count for the rest of the pod's life.
pub fn pod_resources(pod: &Pod, requests: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut total = Resources::new();
    for container in &spec.containers {
        container_resources(container, requests)
            .iter()
            .for_each(|(name, amount)| add(&mut total, name, *amount));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let own = container_resources(container, requests);
        if container.restart_policy.as_deref() == Some("Always") {
            own.iter().for_each(|(name, amount)| add(&mut sidecars, name, *amount));
            max(&mut starting, &sidecars);
        } else {
            let mut needed = sidecars.clone();
            own.iter().for_each(|(name, amount)| add(&mut needed, name, *amount));
            max(&mut starting, &needed);
        }
    }
    sidecars.iter().for_each(|(name, amount)| add(&mut total, name, *amount));
    max(&mut total, &starting);
    for (name, text) in spec.overhead.iter().flatten() {
        if requests || total.contains_key(name) {
            add(&mut total, name, number(text));
        }
    }
    total
}
