//! The node's status from facts. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::facts::Facts;
use crate::kubelet::quantity;

/// The version of Kubernetes whose node this is.
pub const KUBELET_VERSION: &str = "v1.36.0";
/// Images listed in a status; the largest come first.
pub const IMAGES_MAX: usize = 50;

/// Features that pods may need of their node and that this agent has, sorted; scheduler and API server look at them.
const DECLARED: &[&str] = &[
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// What a status is made from beside the facts.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The hostname.
    pub hostname: String,
    /// The addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The server's port.
    pub port: u16,
    /// Most pods.
    pub pods_max: u32,
    /// Memory kept from pods, bytes (reservations and the eviction threshold).
    pub memory_reserved_bytes: u64,
    /// CPU kept from pods, thousandths.
    pub cpu_reserved_milli: i64,
    /// Disk kept from pods, bytes.
    pub disk_reserved_bytes: u64,
    /// Extended resources of device plugins: (name, capacity, allocatable).
    pub devices: Vec<(String, u64, u64)>,
    /// Why the node is not ready; empty if it is.
    pub problems: Vec<String>,
    /// Memory is short.
    pub memory_pressure: bool,
    /// A disk is short.
    pub disk_pressure: bool,
    /// Process ids are short.
    pub pid_pressure: bool,
    /// Images on the machine.
    pub images: Vec<ContainerImage>,
    /// The runtime's handlers.
    pub handlers: Vec<NodeRuntimeHandler>,
    /// Volumes in use, as `kubernetes.io/csi/<driver>^<handle>`.
    pub volumes_in_use: Vec<String>,
}

type Resources = BTreeMap<String, Quantity>;

/// What the machine has.
pub fn capacity(facts: &Facts, inputs: &Inputs) -> Resources {
    let mut all = Resources::from([
        ("cpu".to_owned(), Quantity(facts.cpus.to_string())),
        ("memory".to_owned(), quantity::from_bytes(facts.memory_bytes)),
        ("ephemeral-storage".to_owned(), quantity::from_bytes(facts.disk_bytes)),
        ("pods".to_owned(), Quantity(inputs.pods_max.to_string())),
    ]);
    for (kb, count) in &facts.huge_pages {
        all.insert(huge_page_name(*kb), quantity::from_bytes(kb * 1024 * count));
    }
    for (name, capacity, _) in &inputs.devices {
        all.insert(name.clone(), Quantity(capacity.to_string()));
    }
    all
}

fn huge_page_name(kb: u64) -> String {
    match kb {
        kb if kb % (1 << 20) == 0 => format!("hugepages-{}Gi", kb >> 20),
        kb if kb % (1 << 10) == 0 => format!("hugepages-{}Mi", kb >> 10),
        kb => format!("hugepages-{kb}Ki"),
    }
}

/// What pods may use of it.
pub fn allocatable(facts: &Facts, inputs: &Inputs) -> Resources {
    let mut all = capacity(facts, inputs);
    let cpu = i64::try_from(facts.cpus * 1000).unwrap_or(i64::MAX) - inputs.cpu_reserved_milli;
    let huge: u64 = facts.huge_pages.iter().map(|(kb, count)| kb * 1024 * count).sum();
    let memory = facts.memory_bytes.saturating_sub(inputs.memory_reserved_bytes + huge);
    let disk = facts.disk_bytes.saturating_sub(inputs.disk_reserved_bytes);
    all.insert("cpu".into(), quantity::from_milli(cpu.max(0)));
    all.insert("memory".into(), quantity::from_bytes(memory));
    all.insert("ephemeral-storage".into(), Quantity(disk.to_string()));
    for (name, _, allocatable) in &inputs.devices {
        all.insert(name.clone(), Quantity(allocatable.to_string()));
    }
    all
}

struct Verdict {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn conditions(inputs: &Inputs, old: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |kind, status, yes, no, yes_text: &str, no_text: &str| Verdict {
        kind,
        status,
        reason: if status { yes } else { no },
        message: if status { yes_text } else { no_text }.to_owned(),
    };
    let verdicts = [
        pressure(
            "MemoryPressure",
            inputs.memory_pressure,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "kubelet has insufficient memory available",
            "kubelet has sufficient memory available",
        ),
        pressure(
            "DiskPressure",
            inputs.disk_pressure,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has disk pressure",
            "kubelet has no disk pressure",
        ),
        pressure(
            "PIDPressure",
            inputs.pid_pressure,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "kubelet has insufficient PID available",
            "kubelet has sufficient PID available",
        ),
        Verdict {
            kind: "Ready",
            status: inputs.problems.is_empty(),
            reason: if inputs.problems.is_empty() { "KubeletReady" } else { "KubeletNotReady" },
            message: if inputs.problems.is_empty() {
                "kubelet is posting ready status".to_owned()
            } else {
                match inputs.problems.as_slice() {
                    [one] => one.clone(),
                    many => format!("[{}]", many.join(", ")),
                }
            },
        },
    ];
    let foreign = old.conditions.iter().flatten().filter(|c| verdicts.iter().all(|v| v.kind != c.type_));
    let own = verdicts.iter().map(|v| {
        let status = if v.status { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == v.kind && c.status == status);
        NodeCondition {
            type_: v.kind.to_owned(),
            status: status.to_owned(),
            reason: Some(v.reason.to_owned()),
            message: Some(v.message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    });
    foreign.cloned().chain(own).collect()
}

/// Computes the status. `old` is the API's: conditions of others and transition times are kept.
pub fn status(facts: &Facts, inputs: &Inputs, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let ips = inputs.ips.iter().map(|ip| ("InternalIP", ip.to_string()));
    let addresses = ips.chain([("Hostname", inputs.hostname.clone())]);
    NodeStatus {
        capacity: Some(capacity(facts, inputs)),
        allocatable: Some(allocatable(facts, inputs)),
        conditions: Some(conditions(inputs, old, now)),
        addresses: Some(
            addresses.map(|(kind, address)| NodeAddress { type_: kind.to_owned(), address }).collect(),
        ),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(inputs.port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: facts.architecture.to_owned(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: facts.runtime.clone(),
            kernel_version: facts.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            swap: None,
        }),
        images: Some(inputs.images.clone()).filter(|i| !i.is_empty()),
        runtime_handlers: Some(inputs.handlers.clone()).filter(|h| !h.is_empty()),
        volumes_in_use: Some(inputs.volumes_in_use.clone()).filter(|v| !v.is_empty()),
        declared_features: Some(DECLARED.iter().map(|name| (*name).to_owned()).collect()),
        ..Default::default()
    }
}

/// True if only times differ: such a status need not be sent often.
pub fn same_but_heartbeat(a: &NodeStatus, b: &NodeStatus) -> bool {
    let strip = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    strip(a) == strip(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_and_conditions() {
        let facts = Facts { cpus: 4, memory_bytes: 4 << 30, disk_bytes: 1000, ..Default::default() };
        let inputs = Inputs {
            pods_max: 110,
            memory_reserved_bytes: 1 << 30,
            cpu_reserved_milli: 500,
            disk_reserved_bytes: 100,
            problems: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let first = status(&facts, &inputs, &NodeStatus::default(), now);
        let amount = |r: &Option<Resources>, n: &str| r.as_ref().and_then(|r| r.get(n)).map(|q| q.0.clone());
        assert_eq!(amount(&first.allocatable, "cpu").as_deref(), Some("3500m"));
        assert_eq!(amount(&first.allocatable, "memory").as_deref(), Some("3145728Ki"));
        assert_eq!(amount(&first.allocatable, "ephemeral-storage").as_deref(), Some("900"));
        let later = Timestamp::from_second(60).expect("in range");
        let ready = status(&facts, &Inputs { problems: vec![], ..inputs }, &first, later);
        let find = |s: &NodeStatus, kind: &str| {
            s.conditions.clone().unwrap_or_default().into_iter().find(|c| c.type_ == kind).expect("there")
        };
        assert_eq!(find(&first, "Ready").message.as_deref(), Some("[a, b]"));
        assert_eq!(find(&ready, "Ready").last_transition_time, Some(Time(later)));
        assert_eq!(find(&ready, "DiskPressure").last_transition_time, Some(Time(now)));
        assert!(same_but_heartbeat(&first, &first) && !same_but_heartbeat(&first, &ready));
    }
}
