//! Whether this machine takes a pod: a second, local look at what the scheduler decided, with upstream's
//! reasons and texts.

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::kubelet::cri::security;
use crate::kubelet::fields::Allocatable;
use crate::kubelet::pod::allocation::Verdict;
use crate::kubelet::pod::qos::SYSTEM_CRITICAL_PRIORITY;
use crate::kubelet::pod::spec;
use crate::kubelet::pod::status::Failure;
use crate::kubelet::quantity;

/// Sysctls that cannot disturb others on the machine.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The sum of requests that a pod makes: init containers count as far as they exceed the others.
pub fn requests(pod: &Pod, resource: &str) -> i128 {
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        requests.and_then(|r| r.get(resource)).map_or(0, quantity::nano)
    };
    let spec = spec::spec(pod);
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(resource)).map_or(0, quantity::nano);
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec::init_containers(pod) {
        if spec::is_sidecar(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    let regular: i128 = spec::containers(pod).iter().map(of).sum();
    let own = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
    own.map_or((regular + sidecars).max(peak), quantity::nano) + overhead
}

/// What admission looks at.
pub struct Admission<'a> {
    /// The node as the API shows it.
    pub node: Option<&'a Node>,
    /// Its allocatable resources.
    pub allocatable: &'a Allocatable,
    /// Sysctls allowed beyond the safe ones.
    pub unsafe_sysctls: &'a [String],
    /// Memory pressure: pods that request nothing are not taken.
    pub memory_pressure: bool,
    /// Disk pressure: only critical pods are taken.
    pub disk_pressure: bool,
    /// The kernel has AppArmor.
    pub apparmor: bool,
}

fn refuse(reason: &str, message: impl Into<String>) -> Option<Failure> {
    Some(Failure { reason: reason.to_owned(), message: message.into() })
}

impl Admission<'_> {
    /// Why the pod is refused; `others` are the active pods already here.
    pub fn refusal<'p>(&self, pod: &Pod, others: impl Iterator<Item = &'p Pod> + Clone) -> Option<Failure> {
        let critical = spec::is_static(pod)
            || spec::is_mirror(pod)
            || spec::spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY);
        self.wrong_node(pod)
            .or_else(|| self.forbidden_sysctl(pod))
            .or_else(|| self.without_apparmor(pod))
            .or_else(|| if critical { None } else { self.pressure(pod) })
            .or_else(|| self.out_of(pod, others))
    }

    /// Whether there is room for a running pod's changed resources; `others` are the other active pods.
    pub fn verdict<'p>(&self, pod: &Pod, others: impl Iterator<Item = &'p Pod> + Clone) -> Verdict {
        for (resource, capacity) in self.allocatable.iter().filter(|(resource, _)| *resource != "pods") {
            let unit = if resource == "cpu" { 1_000_000 } else { quantity::NANO };
            let (wanted, capacity) = (requests(pod, resource) / unit, quantity::nano(capacity) / unit);
            if wanted > capacity {
                return Verdict::Infeasible(format!(
                    "Node didn't have enough capacity: {resource}, requested: {wanted}, capacity: {capacity}"
                ));
            }
        }
        self.out_of(pod, others).map_or(Verdict::Feasible, |failure| Verdict::Deferred(failure.message))
    }

    fn pressure(&self, pod: &Pod) -> Option<Failure> {
        let tolerates = spec::spec(pod)
            .tolerations
            .iter()
            .flatten()
            .any(|t| t.key.as_deref() == Some("node.kubernetes.io/memory-pressure"));
        let best_effort =
            crate::kubelet::pod::qos::class(pod) == crate::kubelet::pod::qos::QosClass::BestEffort;
        if self.memory_pressure && best_effort && !tolerates {
            return refuse("Evicted", "The node had condition: [MemoryPressure]. ");
        }
        if self.disk_pressure {
            return refuse("Evicted", "The node had condition: [DiskPressure]. ");
        }
        None
    }

    fn wrong_node(&self, pod: &Pod) -> Option<Failure> {
        let node = self.node?;
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = spec::spec(pod);
        let selector = spec.node_selector.clone().unwrap_or_default();
        let fits = selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        let os = spec.os.as_ref().is_none_or(|os| os.name == "linux");
        if !os {
            return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
        }
        if fits {
            None
        } else {
            refuse(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            )
        }
    }

    fn forbidden_sysctl(&self, pod: &Pod) -> Option<Failure> {
        let spec = spec::spec(pod);
        let sysctls = spec.security_context.as_ref().and_then(|c| c.sysctls.as_ref());
        let allowed = |name: &str| {
            SAFE_SYSCTLS.contains(&name)
                || self.unsafe_sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(prefix) => name.starts_with(prefix),
                    None => name == pattern,
                })
        };
        let bad =
            sysctls.into_iter().flatten().map(|s| s.name.replace('/', ".")).find(|name| !allowed(name))?;
        refuse("SysctlForbidden", format!("forbidden sysctl: \"{bad}\" not allowlisted"))
    }

    /// A pod that is to be confined is not run without. One that was taken before stays, as upstream's.
    fn without_apparmor(&self, pod: &Pod) -> Option<Failure> {
        let pending = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_none_or(|p| p == "Pending");
        if self.apparmor || !pending || !security::asks_for_apparmor(pod) {
            return None;
        }
        refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
    }

    fn out_of<'p>(&self, pod: &Pod, others: impl Iterator<Item = &'p Pod> + Clone) -> Option<Failure> {
        let out = |resource: &str, requested: i128, used: i128, capacity: i128| {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            refuse(&format!("OutOf{resource}"), message)
        };
        let capacity = self.allocatable.get("pods").map_or(i128::MAX, |q| i128::from(quantity::units(q)));
        let count = others.clone().count() as i128;
        if count + 1 > capacity {
            return out("pods", 1, count, capacity);
        }
        let units = |resource: &str| if resource == "cpu" { 1_000_000 } else { quantity::NANO };
        for resource in self.allocatable.keys().filter(|resource| *resource != "pods") {
            let (wanted, unit) = (requests(pod, resource), units(resource));
            let Some(capacity) = self.allocatable.get(resource).map(quantity::nano).filter(|_| wanted > 0)
            else {
                continue;
            };
            let used: i128 = others.clone().map(|p| requests(p, resource)).sum();
            if used + wanted > capacity {
                return out(resource, wanted / unit, used / unit, capacity / unit);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).expect("a pod")
    }

    fn check(spec: Value, expected: &str) {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"labels": {"disk": "ssd"}}})).expect("a node");
        let allocatable: Allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "2")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Quantity(v.into())))
            .collect();
        let admission = Admission {
            node: Some(&node),
            allocatable: &allocatable,
            unsafe_sysctls: &["net.core.*".into()],
            memory_pressure: true,
            disk_pressure: false,
            apparmor: false,
        };
        let other = pod(json!({"containers": [{"name": "o", "resources": {"requests": {"cpu": "1500m"}}}]}));
        let refusal = admission.refusal(&pod(spec), [&other].into_iter());
        let text = refusal.map(|f| format!("{}: {}", f.reason, f.message)).unwrap_or_default();
        assert_eq!(text, expected);
    }

    #[test]
    fn refusals() {
        let with =
            |requests: Value| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        check(with(json!({"cpu": "500m"})), "");
        check(
            with(json!({"cpu": "501m"})),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
        );
        check(with(json!({})), "Evicted: The node had condition: [MemoryPressure]. ");
        let mut spec = with(json!({"cpu": "1m"}));
        spec["nodeSelector"] = json!({"disk": "hdd"});
        check(
            spec,
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
        let mut spec = with(json!({"cpu": "1m"}));
        spec["securityContext"] = json!({"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]});
        check(spec.clone(), "");
        spec["securityContext"] = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
        check(spec.clone(), "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        let refused = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        for (wanted, text) in [("Unconfined", ""), ("RuntimeDefault", refused), ("Localhost", refused)] {
            spec["securityContext"] = json!({"appArmorProfile": {"type": wanted}});
            check(spec.clone(), text);
        }
        spec["securityContext"] = json!({});
        let asking = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        spec["ephemeralContainers"] = json!([{"name": "d", "securityContext": asking}]);
        check(spec.clone(), refused);
        spec["ephemeralContainers"] = json!(null);
        check(spec.clone(), "");
        spec["containers"][0]["securityContext"] = asking;
        check(spec, refused);
    }

    #[test]
    fn changed_resources_wait_for_room_or_never_get_it() {
        let allocatable: Allocatable =
            [("cpu".to_owned(), Quantity("2".into())), ("pods".to_owned(), Quantity("9".into()))].into();
        let admission = Admission {
            node: None,
            allocatable: &allocatable,
            unsafe_sysctls: &[],
            memory_pressure: false,
            disk_pressure: false,
            apparmor: false,
        };
        let of =
            |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}));
        let other = of("1");
        let verdict = |cpu: &str| admission.verdict(&of(cpu), [&other].into_iter());
        assert_eq!(verdict("1"), Verdict::Feasible);
        let text = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000";
        assert_eq!(verdict("1500m"), Verdict::Deferred(text.into()));
        let text = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
        assert_eq!(verdict("3"), Verdict::Infeasible(text.into()));
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let p = pod(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
                {"name": "i", "resources": {"requests": {"cpu": "5"}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}));
        assert_eq!(requests(&p, "cpu"), 6 * quantity::NANO);
    }
}
