//! What an object counts against quotas, and which names of a quota concern its kind. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use machinery::quantity::{Format, Quantity};

use crate::contract::{Object, Operation};
use crate::kinds::json::{at, entries, int, items, text};
use crate::kinds::pod::resources::{Amounts, add, amounts, is_native, pod_amounts};

const POD_NAMES: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Names that a pod must set in every container when a quota has them; upstream's old mistake.
const MUST_BE_SET: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SERVICE_NAMES: [&str; 4] =
    ["count/services", "services", "services.nodeports", "services.loadbalancers"];
const CLAIM_NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const STORAGE_CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS_SUFFIX: &str = ".deviceclass.resource.k8s.io/devices";
/// Kinds whose count has a second, older name.
const COUNTED_TWICE: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
/// Requests that are never stored.
const NOT_STORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// How one kind is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure<'a> {
    Pods,
    Services,
    Claims,
    DeviceClaims,
    /// Only how many there are.
    Count(&'a str, &'a str),
}

impl<'a> Measure<'a> {
    /// The measure of a resource; none for those no quota sees.
    pub fn of(group: &'a str, resource: &'a str) -> Option<Self> {
        if NOT_STORED.contains(&(group, resource)) {
            return None;
        }
        Some(match (group, resource) {
            ("", "pods") => Measure::Pods,
            ("", "services") => Measure::Services,
            ("", "persistentvolumeclaims") => Measure::Claims,
            ("resource.k8s.io", "resourceclaims") => Measure::DeviceClaims,
            _ => Measure::Count(group, resource),
        })
    }

    /// Whether the request could change what is used.
    pub fn handles(
        self,
        subresource: &str,
        operation: Operation,
        new: &Object,
        old: Option<&Object>,
    ) -> bool {
        let (creates, updates) = (operation == Operation::Create, operation == Operation::Update);
        let old = old.unwrap_or(&serde_json::Value::Null);
        match (self, subresource) {
            (Measure::Pods, "") => creates || updates && has_deadline(new) != has_deadline(old),
            (Measure::Pods, "resize") => updates,
            (Measure::Services | Measure::Claims | Measure::DeviceClaims, "") => creates || updates,
            (Measure::Claims, "status") => {
                updates
                    && at(new, &["status", "allocatedResources"])
                        != at(old, &["status", "allocatedResources"])
            }
            (Measure::Count(..), "") => creates,
            _ => false,
        }
    }

    /// Whether a name in a quota concerns objects of this kind.
    pub fn concerns(self, name: &str) -> bool {
        match self {
            Measure::Pods => {
                let prefixed = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
                let extended = name.starts_with("requests.") && !is_native(name);
                POD_NAMES.contains(&name) || prefixed || extended
            }
            Measure::Services => SERVICE_NAMES.contains(&name),
            Measure::Claims => {
                let of_class = |own: &str| {
                    name.strip_suffix(own).is_some_and(|rest| rest.ends_with(STORAGE_CLASS_SUFFIX))
                };
                name == "count/persistentvolumeclaims"
                    || CLAIM_NAMES.contains(&name)
                    || CLAIM_NAMES.iter().any(|own| of_class(own))
            }
            Measure::DeviceClaims => {
                name == "count/resourceclaims.resource.k8s.io" || name.ends_with(DEVICE_CLASS_SUFFIX)
            }
            Measure::Count(group, resource) => {
                name == count_name(group, resource)
                    || group.is_empty() && COUNTED_TWICE.contains(&resource) && name == resource
            }
        }
    }

    /// What the object uses.
    pub fn usage(self, object: &Object, now: Timestamp) -> Amounts {
        match self {
            Measure::Pods => pod_usage(object, now),
            Measure::Services => service_usage(object),
            Measure::Claims => claim_usage(object),
            Measure::DeviceClaims => device_usage(object),
            Measure::Count(group, resource) => {
                let mut used = Amounts::from([(count_name(group, resource), units(1))]);
                if group.is_empty() && COUNTED_TWICE.contains(&resource) {
                    used.insert(resource.to_owned(), units(1));
                }
                used
            }
        }
    }

    /// What the object must say because a quota has these names; the text of the refusal.
    pub fn constraints(self, names: &[&str], object: &Object) -> Result<(), String> {
        if self != Measure::Pods || !at(object, &["spec", "resources"]).is_null() {
            return Ok(());
        }
        let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let lists = ["containers", "initContainers"].map(|list| items(object, &["spec", list]));
        for container in lists.into_iter().flatten() {
            let [requests, limits] =
                ["requests", "limits"].map(|part| amounts(at(container, &["resources", part])));
            let set = compute(&requests, &limits);
            for name in names.iter().filter(|name| MUST_BE_SET.contains(name) && !set.contains_key(**name)) {
                missing.entry(name).or_default().push(text(container, &["name"]));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, mut containers)| {
                containers.sort_unstable();
                containers.dedup();
                format!("{name} for: {}", containers.join(","))
            })
            .collect();
        Err(format!("must specify {}", parts.join("; ")))
    }
}

fn units(count: i64) -> Quantity {
    Quantity::from_i64(count, Format::DecimalSi)
}

fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Whether the pod has a deadline: the scope `Terminating`.
pub fn has_deadline(pod: &Object) -> bool {
    int(pod, &["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

fn pod_usage(pod: &Object, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([("count/pods".to_owned(), units(1))]);
    if !is_over(pod, now) {
        add(&mut used, &compute(&pod_amounts(pod, "requests"), &pod_amounts(pod, "limits")));
    }
    used
}

/// Pods that ended, or should have by now, use nothing.
fn is_over(pod: &Object, now: Timestamp) -> bool {
    let ended = matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    let deleted = text(pod, &["metadata", "deletionTimestamp"]).parse::<Timestamp>().ok();
    let grace = int(pod, &["metadata", "deletionGracePeriodSeconds"]);
    let expired = deleted.zip(grace).is_some_and(|(at, grace)| {
        at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
    });
    ended || expired
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), units(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = requests.get(name) {
            used.insert(name.to_owned(), *amount);
            used.insert(format!("requests.{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        let huge = name.starts_with("hugepages-");
        if huge {
            used.insert(name.clone(), *amount);
        }
        if huge || !is_native(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    used
}

fn service_usage(service: &Object) -> Amounts {
    let ports = items(service, &["spec", "ports"]);
    let explicit = ports.iter().filter(|port| int(port, &["nodePort"]).unwrap_or_default() != 0).count();
    let on_request =
        at(service, &["spec", "allocateLoadBalancerNodePorts"]) == &serde_json::Value::Bool(false);
    let (node_ports, balancers) = match text(service, &["spec", "type"]) {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if on_request => (explicit, 1),
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    let counts = [1, 1, node_ports, balancers];
    SERVICE_NAMES.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), units(count))).collect()
}

fn claim_usage(claim: &Object) -> Amounts {
    let mut used = Amounts::from([
        ("count/persistentvolumeclaims".to_owned(), units(1)),
        ("persistentvolumeclaims".to_owned(), units(1)),
    ]);
    let annotated = text(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    let named = text(claim, &["spec", "storageClassName"]);
    let class = if annotated.is_empty() { named } else { annotated };
    let storage = |path: &[&str]| amounts(at(claim, path)).remove("storage");
    let allocated = storage(&["status", "allocatedResources"]);
    let asked = storage(&["spec", "resources", "requests"]);
    let bytes = asked.map(|asked| allocated.map_or(asked, |allocated| asked.max(allocated)).round_up(0));
    if let Some(bytes) = bytes {
        used.insert("requests.storage".to_owned(), bytes);
    }
    if !class.is_empty() {
        used.insert(format!("{class}{STORAGE_CLASS_SUFFIX}persistentvolumeclaims"), units(1));
        if let Some(bytes) = bytes {
            used.insert(format!("{class}{STORAGE_CLASS_SUFFIX}requests.storage"), bytes);
        }
    }
    used
}

fn device_usage(claim: &Object) -> Amounts {
    let mut used = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), units(1))]);
    for request in items(claim, &["spec", "devices", "requests"]) {
        let choices = std::iter::once(at(request, &["exactly"])).chain(items(request, &["firstAvailable"]));
        let mut largest = Amounts::new();
        for choice in choices.filter(|choice| !choice.is_null()) {
            let class = text(choice, &["deviceClassName"]);
            // `All` could mean as many as a claim can have.
            let count = match text(choice, &["allocationMode"]) {
                "All" => 32,
                _ => int(choice, &["count"]).unwrap_or(1),
            };
            let own = Amounts::from([(format!("{class}{DEVICE_CLASS_SUFFIX}"), units(count))]);
            crate::kinds::pod::resources::max(&mut largest, &own);
        }
        add(&mut used, &largest);
    }
    used
}

/// Amounts with the given names.
pub fn mask(amounts: &Amounts, names: impl Fn(&str) -> bool) -> Amounts {
    amounts.iter().filter(|(name, _)| names(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// What is used more than before; nothing below zero.
pub fn increase(now: &Amounts, before: &Amounts) -> Amounts {
    let less = |name: &str, amount: Quantity| before.get(name).map_or(amount, |old| amount - *old);
    let grown = now.iter().map(|(name, amount)| (name.clone(), less(name, *amount)));
    grown.filter(|(_, amount)| amount.sign() > 0).collect()
}

/// `a=1,b=2`.
pub fn shown(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    parts.join(",")
}

/// Resource lists as quotas store them.
pub fn stored(list: &Object, path: &[&str]) -> Amounts {
    entries(list, path)
        .filter_map(|(name, value)| Some((name.to_owned(), Quantity::from_value(value).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_of_kinds() {
        let check = |measure: Measure<'_>, object: Object, expected: &str| {
            assert_eq!(shown(&measure.usage(&object, Timestamp::UNIX_EPOCH)), expected);
        };
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}});
        check(Measure::Pods, pod, "count/pods=1,cpu=1,limits.cpu=2,pods=1,requests.cpu=1");
        check(Measure::Pods, json!({"status": {"phase": "Failed"}}), "count/pods=1");
        check(Measure::Count("", "secrets"), json!({}), "count/secrets=1,secrets=1");
        check(Measure::Count("apps", "deployments"), json!({}), "count/deployments.apps=1");
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        check(
            Measure::Services,
            service,
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2",
        );
        let claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        check(
            Measure::Claims,
            claim,
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
        );
    }

    #[test]
    fn containers_must_say_what_a_quota_has() {
        let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
        assert_eq!(
            Measure::Pods.constraints(&["limits.cpu", "pods", "cpu"], &pod),
            Err("must specify cpu for: a,b; limits.cpu for: a,b".to_owned())
        );
    }

    #[test]
    fn concerned_names() {
        let check = |measure: Measure<'_>, name: &str, expected: bool| {
            assert_eq!(measure.concerns(name), expected, "{name}");
        };
        check(Measure::Pods, "requests.nvidia.com/gpu", true);
        check(Measure::Pods, "services", false);
        check(Measure::Claims, "gold.storageclass.storage.k8s.io/requests.storage", true);
        check(Measure::Claims, "gold.storageclass.storage.k8s.io/other", false);
        check(Measure::Count("apps", "deployments"), "count/deployments.apps", true);
    }
}
