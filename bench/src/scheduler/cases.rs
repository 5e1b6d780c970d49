//! upstream's scheduler_perf cases, by name and size, as specifications of nodes and pods.
//!
//! Owns what is created; how it is measured is in `measure`. Sizes and resources are those of upstream's
//! `performance-config.yaml`: nodes of 4 CPUs, 32 GiB and 110 pods, pods of 100m and 500 MiB.

use std::sync::Arc;

use scheduler::core::labels::{Labels, NodeSelectorTerm, Op, Requirement, Selector};
use scheduler::core::spec::{
    AffinityTerm, LocalSpec, NodeInput, PodAffinity, PodClass, PodInput, PodSpec, Resources,
    SpreadConstraint, WeightedTerm,
};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
const MIB: i64 = 1 << 20;

/// What is put upon the cluster while pods are scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Churn {
    None,
    /// Every so often a node comes and goes, and a pod that fits nowhere is created.
    Mixed,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub nodes: usize,
    pub zones: usize,
    /// Pods that are there before the clock starts.
    pub init: (usize, Arc<PodSpec>),
    /// Pods that wait in vain meanwhile (gated or fitting nowhere).
    pub stuck: (usize, Arc<PodSpec>, bool),
    /// Pods that are measured.
    pub measured: (usize, Arc<PodSpec>),
    pub churn: Churn,
}

/// Builds a pod's specification.
struct Pod {
    labels: Vec<(&'static str, &'static str)>,
    affinity: PodAffinity,
    spread: Vec<SpreadConstraint>,
    local: LocalSpec,
    priority: i32,
}

impl Pod {
    fn basic() -> Self {
        Pod::sized(100, 500)
    }

    fn sized(milli_cpu: i64, memory_mib: i64) -> Self {
        let memory = memory_mib * MIB;
        Pod {
            labels: Vec::new(),
            affinity: PodAffinity::default(),
            spread: Vec::new(),
            priority: 0,
            local: LocalSpec {
                requests: Resources { milli_cpu, memory, ..Resources::default() },
                score_milli_cpu: milli_cpu,
                score_memory: memory,
                nonzero_milli_cpu: milli_cpu,
                nonzero_memory: memory,
                images: vec!["registry.k8s.io/pause:3.10.1".into()],
                container_count: 1,
                ..LocalSpec::default()
            },
        }
    }

    fn label(mut self, key: &'static str, value: &'static str) -> Self {
        self.labels.push((key, value));
        self
    }

    fn term(key: &str, value: &str) -> AffinityTerm {
        AffinityTerm {
            topology_key: key.into(),
            namespaces: vec!["sched".into()],
            namespace_selector: Selector::Nothing,
            selector: Selector::from_map([("color", value)]),
        }
    }

    fn spread(mut self, hard: bool) -> Self {
        self.spread.push(SpreadConstraint {
            topology_key: ZONE.into(),
            max_skew: 5,
            min_domains: 1,
            hard,
            selector: Selector::from_map([("color", "blue")]),
            honor_affinity: true,
            honor_taints: false,
        });
        self
    }

    fn build(self) -> Arc<PodSpec> {
        let labels: Labels = self.labels.into_iter().collect();
        let class = PodClass { namespace: "sched".into(), labels, affinity: self.affinity };
        Arc::new(PodSpec {
            local: Arc::new(self.local),
            class: Arc::new(class),
            spread: self.spread,
            scheduler_name: "default-scheduler".into(),
            priority: self.priority,
            ..PodSpec::default()
        })
    }
}

fn case(name: &'static str, nodes: usize, init: (usize, Pod), measured: (usize, Pod)) -> Case {
    Case {
        name,
        nodes,
        zones: 3,
        init: (init.0, init.1.build()),
        stuck: (0, Pod::basic().build(), false),
        measured: (measured.0, measured.1.build()),
        churn: Churn::None,
    }
}

/// `SchedulingBasic` at any size, for the curve over the number of nodes.
pub fn basic(nodes: usize, pods: usize) -> Case {
    case("SchedulingBasic", nodes, (1000, Pod::basic()), (pods, Pod::basic()))
}

/// All cases at 5,000 nodes.
pub fn all() -> Vec<Case> {
    const NODES: usize = 5000;
    let mut all = vec![basic(NODES, 10_000)];
    all.extend(spreading(NODES));
    all.extend(affinity(NODES));
    all.push(node_affinity(NODES));
    all.extend(waiting(NODES));
    let mut churn = case("SchedulingWithMixedChurn", NODES, (0, Pod::basic()), (10_000, Pod::basic()));
    churn.churn = Churn::Mixed;
    all.push(churn);
    let mut important = Pod::sized(3000, 500);
    important.priority = 10;
    all.push(case("PreemptionBasic", NODES, (4 * NODES, Pod::sized(900, 500)), (5000, important)));
    all
}

fn spreading(nodes: usize) -> Vec<Case> {
    let blue = |hard| Pod::basic().label("color", "blue").spread(hard);
    vec![
        case("TopologySpreading", nodes, (1000, Pod::basic()), (5000, blue(true))),
        case("PreferredTopologySpreading", nodes, (1000, Pod::basic()), (5000, blue(false))),
    ]
}

fn affinity(nodes: usize) -> Vec<Case> {
    let required = || {
        let mut pod = Pod::basic().label("color", "blue");
        pod.affinity.required.push(Pod::term(ZONE, "blue"));
        pod
    };
    let anti = || {
        let mut pod = Pod::basic().label("color", "green");
        pod.affinity.required_anti.push(Pod::term(HOSTNAME, "green"));
        pod
    };
    let preferred = |color: &'static str, weight: i32| {
        let mut pod = Pod::basic().label("color", color);
        pod.affinity.preferred.push(WeightedTerm { weight, term: Pod::term(HOSTNAME, color) });
        pod
    };
    let mut one_zone = case("SchedulingPodAffinity", nodes, (nodes, required()), (5000, required()));
    one_zone.zones = 1;
    vec![
        one_zone,
        case("SchedulingPodAntiAffinity", nodes, (1000, anti()), (1000, anti())),
        case(
            "SchedulingPreferredPodAffinity",
            nodes,
            (nodes, preferred("red", 1)),
            (5000, preferred("red", 1)),
        ),
        case(
            "SchedulingPreferredPodAntiAffinity",
            nodes,
            (nodes, preferred("yellow", -1)),
            (5000, preferred("yellow", -1)),
        ),
    ]
}

fn node_affinity(nodes: usize) -> Case {
    let mut pod = Pod::basic();
    let zones = Requirement { key: ZONE.into(), op: Op::In, values: vec!["zone-0".into(), "zone-1".into()] };
    pod.local.required_nodes = Some(vec![NodeSelectorTerm { labels: vec![zones], fields: vec![] }]);
    case("SchedulingNodeAffinity", nodes, (nodes, Pod::basic()), (10_000, pod))
}

fn waiting(nodes: usize) -> Vec<Case> {
    let mut gated = case("SchedulingWhileGated", nodes, (0, Pod::basic()), (20_000, Pod::basic()));
    gated.stuck = (10_000, Pod::basic().label("gated", "yes").build(), true);
    let mut unschedulable = case("Unschedulable", nodes, (200, Pod::basic()), (10_000, Pod::basic()));
    unschedulable.stuck = (20_000, Pod::sized(9_000_000, 500).build(), false);
    vec![gated, unschedulable]
}

/// Node number `i` of a case.
pub fn node(i: usize, zones: usize) -> NodeInput {
    let name = format!("node-{i:06}");
    let labels = [(HOSTNAME.to_owned(), name.clone()), (ZONE.to_owned(), format!("zone-{}", i % zones))];
    NodeInput {
        name: name.as_str().into(),
        labels: labels.into_iter().collect(),
        allocatable: Resources { milli_cpu: 4000, memory: 32 << 30, ..Resources::default() },
        pods: 110,
        ..NodeInput::default()
    }
}

/// Pod number `i` with a specification.
pub fn pod(i: usize, spec: &Arc<PodSpec>, gated: bool) -> PodInput {
    PodInput {
        uid: format!("00000000-0000-4000-8000-{i:012x}").into(),
        name: format!("pod-{i}").into(),
        spec: (**spec).clone(),
        gates: if gated { vec!["wait".into()] } else { vec![] },
        version: 1,
        ..PodInput::default()
    }
}
