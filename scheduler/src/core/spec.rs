//! What the scheduler keeps of a pod and of a node: plain data, compiled once at the edge.
//!
//! Owns the input types of the core. They are value types (equal, hashable), so that pods of one template share
//! one copy. They hold nothing that does not influence a decision.

use std::sync::Arc;

use super::labels::{Labels, NodeSelector, NodeSelectorTerm, Requirement, Selector, Taint, Toleration};
use super::migration::Migrated;

/// Milliseconds since the Unix epoch. The core never reads a clock; it is told the time.
pub type TimeMs = i64;

/// Amounts of resources. CPU in millicores, memory and ephemeral storage in bytes, the rest in units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    /// Extended, huge page and other scalar resources, sorted by name.
    pub scalars: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// The amount of the named scalar, zero when absent.
    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.iter().find(|(n, _)| **n == *name).map_or(0, |(_, v)| *v)
    }

    /// The amount of any resource by its API name.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral,
            other => self.scalar(other),
        }
    }
}

/// A host port a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// Whether two ports cannot be held on one node: same protocol and port on overlapping addresses.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || &*self.ip == "0.0.0.0" || &*other.ip == "0.0.0.0")
    }
}

/// An inline volume that must not be mounted twice on a node (VolumeRestrictions).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    Gce { name: Box<str>, read_only: bool },
    Aws { id: Box<str> },
    Iscsi { iqn: Box<str>, read_only: bool },
    Rbd { monitors: Vec<Box<str>>, pool: Box<str>, image: Box<str>, read_only: bool },
}

impl Disk {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Disk) -> bool {
        match (self, other) {
            (Disk::Gce { name: a, read_only: ra }, Disk::Gce { name: b, read_only: rb }) => {
                a == b && !(*ra && *rb)
            }
            (Disk::Aws { id: a }, Disk::Aws { id: b }) => a == b,
            (Disk::Iscsi { iqn: a, read_only: ra }, Disk::Iscsi { iqn: b, read_only: rb }) => {
                a == b && !(*ra && *rb)
            }
            (
                Disk::Rbd { monitors: ma, pool: pa, image: ia, read_only: ra },
                Disk::Rbd { monitors: mb, pool: pb, image: ib, read_only: rb },
            ) => ma.iter().any(|m| mb.contains(m)) && pa == pb && ia == ib && !(*ra && *rb),
            _ => false,
        }
    }
}

/// A preferred node affinity term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreferredNode {
    pub weight: i32,
    pub term: NodeSelectorTerm,
}

/// The part of a pod that matters to one node at a time. Pods that share it share filter and score work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LocalSpec {
    /// What NodeResourcesFit asks for.
    pub requests: Resources,
    /// Requests with 100m CPU and 200 MiB for containers that ask nothing, as the score plugins count the pod.
    pub score_milli_cpu: i64,
    pub score_memory: i64,
    /// The same as the node accounts for it once the pod is there; differs for pod-level resources only.
    pub nonzero_milli_cpu: i64,
    pub nonzero_memory: i64,
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeSelector`, sorted by key.
    pub node_selector: Vec<(Box<str>, Box<str>)>,
    pub required_nodes: Option<NodeSelector>,
    pub preferred_nodes: Vec<PreferredNode>,
    pub host_ports: Vec<HostPort>,
    pub disks: Vec<Disk>,
    /// Normalised names of the images of all containers and image volumes, in the order they are counted.
    pub images: Vec<Arc<str>>,
    /// Containers and init containers, the divisor of ImageLocality.
    pub container_count: u32,
    /// Features a node must declare (NodeDeclaredFeatures).
    pub features: Vec<Arc<str>>,
}

/// A pod (anti-)affinity term; namespaces are already the pod's own where the term names none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityTerm {
    pub topology_key: Arc<str>,
    pub namespaces: Vec<Arc<str>>,
    pub namespace_selector: Selector,
    pub selector: Selector,
}

/// A preferred term; the weight is negative for anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightedTerm {
    pub weight: i32,
    pub term: AffinityTerm,
}

/// Pod affinity of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAffinity {
    pub required: Vec<AffinityTerm>,
    pub required_anti: Vec<AffinityTerm>,
    pub preferred: Vec<WeightedTerm>,
}

impl PodAffinity {
    /// Whether no term is present.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

/// The part of a pod that matters to other pods: who it is and whom it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodClass {
    pub namespace: Arc<str>,
    pub labels: Labels,
    pub affinity: PodAffinity,
}

/// A topology spread constraint as written in the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    pub topology_key: Arc<str>,
    pub max_skew: i32,
    pub min_domains: i32,
    pub hard: bool,
    pub selector: Selector,
    /// Requirements from `matchLabelKeys`, resolved against the pod's own labels.
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// The controller that owns a pod, for default spread constraints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub kind: OwnerKind,
    pub name: Arc<str>,
}

/// Owners whose selectors count for default spread constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerKind {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

/// A claim a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    pub name: Arc<str>,
    /// A generic ephemeral volume: the claim must belong to the pod.
    pub ephemeral: bool,
}

/// Everything the core keeps of a pod's specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodSpec {
    pub local: Arc<LocalSpec>,
    pub class: Arc<PodClass>,
    pub spread: Vec<SpreadConstraint>,
    /// Whether the pod lists spread constraints of any kind (default constraints apply to those that do not).
    pub owner: Option<Owner>,
    pub claims: Vec<ClaimRef>,
    /// Drivers of inline CSI volumes (an event of their CSIDriver may help the pod).
    pub inline_csi_drivers: Vec<Arc<str>>,
    /// Inline volumes of in-tree kinds that CSI drivers have taken over.
    pub migrated: Vec<Migrated>,
    pub scheduler_name: Arc<str>,
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// The pod asks for ResourceClaims, which this scheduler does not allocate.
    pub has_resource_claims: bool,
}

/// A pod as the informer delivers it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInput {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub spec: PodSpec,
    /// Empty when not bound.
    pub node_name: Box<str>,
    pub nominated_node: Box<str>,
    pub gates: Vec<Box<str>>,
    /// `status.startTime`, or creation where it is missing.
    pub start_ms: TimeMs,
    /// A deletion timestamp is set.
    pub terminating: bool,
    /// Terminating because of preemption (`DisruptionTarget` with the scheduler's reason).
    pub preempted: bool,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// `metadata.generation`, which conditions say they are about.
    pub generation: i64,
    /// The PodScheduled condition as it stands, to avoid writing the same one again.
    pub condition: Option<Arc<ScheduledCondition>>,
}

/// The `PodScheduled` condition when it is `False`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduledCondition {
    pub reason: Box<str>,
    pub message: Box<str>,
}

/// An image on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    pub names: Vec<Arc<str>>,
    pub size_bytes: i64,
}

/// A node as the informer delivers it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInput {
    pub name: Arc<str>,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods: i64,
    pub images: Vec<NodeImage>,
    pub features: Vec<Arc<str>>,
}

impl LocalSpec {
    /// Whether `spec.nodeSelector` and the required node affinity admit the node.
    pub fn admits_node(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.required_nodes.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    /// Sum of the weights of the preferred terms that match; empty or weightless terms do not count.
    pub fn node_preference(&self, name: &str, labels: &Labels) -> i64 {
        preference(&self.preferred_nodes, name, labels)
    }

    /// The node names that `metadata.name` requirements narrow the search to, as PreFilter of NodeAffinity finds
    /// them: `None` for no narrowing, an empty list for a contradiction.
    pub fn named_nodes(&self) -> Option<Vec<Box<str>>> {
        let terms = self.required_nodes.as_ref().filter(|t| !t.is_empty())?;
        let mut names: Vec<Box<str>> = Vec::new();
        for term in terms {
            names.extend(term_names(&term.fields)?);
        }
        names.sort();
        names.dedup();
        Some(names)
    }
}

/// Sum of the weights of the terms that match a node.
pub fn preference(terms: &[PreferredNode], name: &str, labels: &Labels) -> i64 {
    terms.iter().filter(|p| p.weight != 0 && p.term.matches(name, labels)).map(|p| i64::from(p.weight)).sum()
}

fn term_names(fields: &[Requirement]) -> Option<Vec<Box<str>>> {
    let mut names: Option<Vec<Box<str>>> = None;
    for field in fields {
        if &*field.key == "metadata.name" && field.op == super::labels::Op::In {
            names = Some(match names {
                None => field.values.clone(),
                Some(have) => have.into_iter().filter(|n| field.values.contains(n)).collect(),
            });
        }
    }
    names
}

impl AffinityTerm {
    /// Whether the term selects a pod with these labels in this namespace. `namespace_labels` is `None` where the
    /// namespace is not known: only a selector of everything matches then.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespace_labels: Option<&Labels>) -> bool {
        let by_selector = || match namespace_labels {
            Some(have) => self.namespace_selector.matches(have),
            None => self.namespace_selector.is_everything(),
        };
        (self.namespaces.iter().any(|n| **n == *namespace) || by_selector()) && self.selector.matches(labels)
    }
}
