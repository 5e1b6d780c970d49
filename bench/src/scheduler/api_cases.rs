//! upstream's scheduler_perf cases as objects to be created through an API.
//!
//! Owns what is created; how it is measured is in `end_to_end`. Names, sizes and templates are those of upstream's
//! `performance-config.yaml`; what differs stands at the case.

use std::sync::Arc;

use serde_json::{Value, json};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The class of pods that may evict others.
pub const IMPORTANT: &str = "important";

/// What nodes and pods come and go while pods are scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrest {
    None,
    /// A node without room, a pod that fits nowhere and a service, each made and deleted anew every second.
    MixedChurn,
    /// Bound pods are deleted, fifty a second.
    Deletions,
}

/// Some pods of one template.
#[derive(Clone, Debug)]
pub struct Load {
    pub count: u64,
    pub template: Arc<Value>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub nodes: u64,
    pub zones: u64,
    /// Pods a node takes.
    pub pods_per_node: u64,
    /// Bound before the clock starts, by their creator, evenly over the nodes.
    pub init: Load,
    /// These wait in vain while the clock runs.
    pub stuck: Load,
    pub measured: Load,
    pub unrest: Unrest,
}

fn pod(cpu: &str) -> Value {
    let resources = json!({"cpu": cpu, "memory": "500Mi"});
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"labels": {}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "pause", "image": "registry.k8s.io/pause:3.10.1", "ports": [{"containerPort": 80}],
            "resources": {"limits": resources, "requests": resources},
        }]},
    })
}

fn basic() -> Value {
    pod("100m")
}

fn colored(color: &str, field: &str, value: Value) -> Value {
    let mut pod = basic();
    pod["metadata"]["labels"]["color"] = color.into();
    pod["spec"][field] = value;
    pod
}

fn term(key: &str, color: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"color": color}}})
}

fn spreading(policy: &str) -> Value {
    let selector = json!({"matchLabels": {"color": "blue"}});
    let constraint =
        json!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": policy, "labelSelector": selector});
    colored("blue", "topologySpreadConstraints", json!([constraint]))
}

fn required(kind: &str, key: &str, color: &str) -> Value {
    let terms = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(key, color)]});
    colored(color, "affinity", json!({ kind: terms }))
}

fn preferred(kind: &str, color: &str) -> Value {
    let weighted = json!({"weight": 1, "podAffinityTerm": term(HOSTNAME, color)});
    colored(
        color,
        "affinity",
        json!({ kind: {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]} }),
    )
}

fn in_two_zones() -> Value {
    let zones = json!({"key": ZONE, "operator": "In", "values": ["zone-0", "zone-1"]});
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [zones]}]});
    let mut pod = basic();
    pod["spec"]["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    pod
}

fn gated() -> Value {
    let mut pod = basic();
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    pod
}

fn important() -> Value {
    let mut pod = pod("3000m");
    pod["spec"]["priorityClassName"] = IMPORTANT.into();
    pod
}

/// As upstream's light pods: no requests, so that one node takes all.
fn light() -> Value {
    let mut pod = basic();
    pod["spec"]["containers"][0].as_object_mut().expect("a container").remove("resources");
    pod
}

fn load(count: u64, template: Value) -> Load {
    Load { count, template: Arc::new(template) }
}

fn case(name: &'static str, nodes: u64, init: Load, measured: Load) -> Case {
    let stuck = load(0, gated());
    Case { name, nodes, zones: 3, pods_per_node: 110, init, stuck, measured, unrest: Unrest::None }
}

/// `SchedulingBasic` at any size.
pub fn at_size(nodes: u64, pods: u64) -> Case {
    case("SchedulingBasic", nodes, load(1000, basic()), load(pods, basic()))
}

/// All cases, at 5,000 nodes where upstream's are.
pub fn all() -> Vec<Case> {
    const NODES: u64 = 5000;
    let affine = || required("podAffinity", ZONE, "blue");
    let apart = || required("podAntiAffinity", HOSTNAME, "green");
    let near = || preferred("podAffinity", "red");
    let away = || preferred("podAntiAffinity", "yellow");
    let mut all = vec![
        at_size(NODES, 10_000),
        case("TopologySpreading", NODES, load(1000, basic()), load(5000, spreading("DoNotSchedule"))),
        case(
            "PreferredTopologySpreading",
            NODES,
            load(1000, basic()),
            load(5000, spreading("ScheduleAnyway")),
        ),
        Case {
            zones: 1,
            ..case("SchedulingPodAffinity", NODES, load(NODES, affine()), load(5000, affine()))
        },
        case("SchedulingPodAntiAffinity", NODES, load(1000, apart()), load(1000, apart())),
        case("SchedulingPreferredPodAffinity", NODES, load(NODES, near()), load(5000, near())),
        case("SchedulingPreferredPodAntiAffinity", NODES, load(NODES, away()), load(5000, away())),
        case("SchedulingNodeAffinity", NODES, load(NODES, basic()), load(10_000, in_two_zones())),
    ];
    all.extend(waiting(NODES));
    // Upstream has no larger size of it either: its own with 5,000 nodes is switched off as failing.
    all.push(case("PreemptionBasic", 1000, load(4000, pod("900m")), load(1000, important())));
    all
}

fn waiting(nodes: u64) -> [Case; 3] {
    // Upstream deletes 20,000 bound pods meanwhile; here as many as the measured time has room for.
    let mut while_gated = case("SchedulingWhileGated", 1, load(5000, light()), load(20_000, light()));
    while_gated.stuck = load(10_000, gated());
    while_gated.pods_per_node = 90_000;
    while_gated.unrest = Unrest::Deletions;
    // Upstream's stuck pods come five a second; here 20,000 are there from the start.
    let mut unschedulable = case("Unschedulable", nodes, load(200, basic()), load(10_000, basic()));
    unschedulable.stuck = load(20_000, pod("9"));
    let mut churn = case("SchedulingWithMixedChurn", nodes, load(0, basic()), load(10_000, basic()));
    churn.unrest = Unrest::MixedChurn;
    [while_gated, unschedulable, churn]
}

impl Case {
    /// Node number `number`: 4 CPUs, 32 GiB.
    pub fn node(&self, number: u64) -> Value {
        let name = node_name(number);
        let resources = match self.nodes {
            1 => json!({"cpu": "4000", "memory": "32Ti", "pods": self.pods_per_node.to_string()}),
            _ => json!({"cpu": "4", "memory": "32Gi", "pods": self.pods_per_node.to_string()}),
        };
        json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {"name": name, "labels": {HOSTNAME: name, ZONE: format!("zone-{}", number % self.zones)}},
            "status": {"capacity": resources, "allocatable": resources, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    /// What the node of initial pod `number` is called.
    pub fn node_of(&self, number: u64) -> String {
        node_name(number % self.nodes)
    }
}

fn node_name(number: u64) -> String {
    format!("node-{number:05}")
}

impl Load {
    /// A pod of this load, bound already where a node is named.
    pub fn pod(&self, name: String, node: Option<String>) -> Value {
        let mut pod = (*self.template).clone();
        pod["metadata"]["name"] = name.into();
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    }
}

/// What [`Unrest::MixedChurn`] makes and deletes: collection and object.
pub fn churned() -> [(&'static str, Value); 3] {
    let node = json!({
        "kind": "Node", "apiVersion": "v1", "metadata": {"name": "churn"},
        "status": {"capacity": {"pods": "0"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let mut stuck = pod("9");
    stuck["metadata"]["name"] = "churn".into();
    let service = json!({
        "kind": "Service", "apiVersion": "v1", "metadata": {"name": "churn"},
        "spec": {"selector": {"app": "churn"}, "ports": [{"port": 8080}]},
    });
    [
        ("/api/v1/nodes", node),
        ("/api/v1/namespaces/bench/pods", stuck),
        ("/api/v1/namespaces/bench/services", service),
    ]
}
