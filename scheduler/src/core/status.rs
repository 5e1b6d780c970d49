//! Why a node was refused, and the message a pod gets when all were.
//!
//! Owns reason texts, which clients match on, and the histogram in `0/N nodes are available: …`.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::{SmallVec, smallvec};

use super::profile::{Plugin, PluginSet};

/// Whether evicting pods could change a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Preemption may help.
    Unschedulable,
    /// Preemption cannot help.
    Unresolvable,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Static(&'static str),
    /// `Insufficient <resource>`.
    Insufficient(Arc<str>),
    Text(Arc<str>),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Static(text) => f.write_str(text),
            Reason::Insufficient(name) => write!(f, "Insufficient {name}"),
            Reason::Text(text) => f.write_str(text),
        }
    }
}

/// The refusal of a node by a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    pub plugin: Plugin,
    pub reasons: SmallVec<[Reason; 1]>,
}

impl Refusal {
    /// A refusal that eviction may cure.
    pub fn unschedulable(plugin: Plugin, reason: &'static str) -> Self {
        Refusal { code: Code::Unschedulable, plugin, reasons: smallvec![Reason::Static(reason)] }
    }

    /// A refusal that eviction cannot cure.
    pub fn unresolvable(plugin: Plugin, reason: &'static str) -> Self {
        Refusal { code: Code::Unresolvable, plugin, reasons: smallvec![Reason::Static(reason)] }
    }

    /// A refusal that eviction cannot cure, with a composed text.
    pub fn unresolvable_text(plugin: Plugin, reason: String) -> Self {
        Refusal { code: Code::Unresolvable, plugin, reasons: smallvec![Reason::Text(reason.into())] }
    }

    /// All reasons, as a status message shows them.
    pub fn message(&self) -> String {
        self.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

pub const UNSCHEDULABLE: &str = "node(s) were unschedulable";
pub const NODE_NAME: &str = "node(s) didn't match the requested node name";
pub const TAINTS: &str = "node(s) had untolerated taint(s)";
pub const NODE_AFFINITY: &str = "node(s) didn't match Pod's node affinity/selector";
pub const NODE_AFFINITY_ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";
pub const NODE_AFFINITY_CONFLICT: &str = "pod affinity terms conflict";
pub const PORTS: &str = "node(s) didn't have free ports for the requested pod ports";
pub const TOO_MANY_PODS: &str = "Too many pods";
pub const CPU: &str = "Insufficient cpu";
pub const MEMORY: &str = "Insufficient memory";
pub const EPHEMERAL: &str = "Insufficient ephemeral-storage";
pub const SPREAD: &str = "node(s) didn't match pod topology spread constraints";
pub const SPREAD_LABEL: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";
pub const AFFINITY: &str = "node(s) didn't match pod affinity rules";
pub const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
pub const EXISTING_ANTI_AFFINITY: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
pub const DISK: &str = "node(s) had no available disk";
pub const READ_WRITE_ONCE_POD: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
pub const VOLUME_COUNT: &str = "node(s) exceed max volume count";
pub const VOLUME_BIND: &str = "node(s) didn't find available persistent volumes to bind";
pub const VOLUME_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
pub const VOLUME_SPACE: &str = "node(s) did not have enough free storage";
pub const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
pub const VOLUME_ZONE: &str = "node(s) had no available volume zone";
pub const FEATURES: &str = "node(s) didn't match Pod's required features";
pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
pub const PREEMPTION_NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// What upstream's DynamicResources says after filters have refused a pod without claims.
pub const NO_CLAIMS_TO_DEALLOCATE: &str = "no new claims to deallocate";
/// What it says where its own PreFilter has not run.
pub const STATE_NOT_FOUND: &str = "not found";
/// The whole message when the cluster has no node.
pub const NO_NODES: &str = "no nodes available to schedule pods";

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// Refusals of single nodes, by slot.
    pub by_node: FxHashMap<u32, Refusal>,
    /// The refusal that holds for all nodes not in `by_node`.
    pub absent: Option<Refusal>,
    /// The message of a PreFilter that refused the pod as such.
    pub pre_filter: Option<String>,
    /// Plugins that refused, whose event hints may wake the pod.
    pub plugins: PluginSet,
}

impl Diagnosis {
    /// Records a node's refusal.
    pub fn refuse(&mut self, node: u32, refusal: Refusal) {
        self.plugins.insert(refusal.plugin);
        self.by_node.insert(node, refusal);
    }

    /// The refusal that applies to a node.
    pub fn of(&self, node: u32) -> Option<&Refusal> {
        self.by_node.get(&node).or(self.absent.as_ref())
    }

    /// The message without the part of preemption; `nodes` is the number of nodes in the cluster.
    pub fn message(&self, nodes: usize) -> String {
        let mut text = format!("0/{nodes} nodes are available:");
        if let Some(message) = &self.pre_filter {
            text.push_str(&format!(" {message}."));
            return text;
        }
        let mut histogram: FxHashMap<&Reason, usize> = FxHashMap::default();
        for refusal in self.by_node.values() {
            refusal.reasons.iter().for_each(|r| *histogram.entry(r).or_default() += 1);
        }
        let absent = nodes.saturating_sub(self.by_node.len());
        if let Some(refusal) = self.absent.as_ref().filter(|_| absent > 0) {
            refusal.reasons.iter().for_each(|r| *histogram.entry(r).or_default() += absent);
        }
        let mut lines: Vec<String> = histogram.iter().map(|(r, n)| format!("{n} {r}")).collect();
        lines.sort();
        if !lines.is_empty() {
            text.push_str(&format!(" {}.", lines.join(", ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_counts_reasons_and_sorts_them_as_text() {
        let mut diagnosis = Diagnosis::default();
        for node in 0..12 {
            diagnosis.refuse(node, Refusal::unschedulable(Plugin::NodeResourcesFit, CPU));
        }
        let mut both = Refusal::unschedulable(Plugin::NodeResourcesFit, CPU);
        both.reasons.push(Reason::Insufficient("example.com/gpu".into()));
        diagnosis.refuse(12, both);
        diagnosis.absent = Some(Refusal::unresolvable(Plugin::NodeAffinity, NODE_AFFINITY));
        let expected = "0/15 nodes are available: 1 Insufficient example.com/gpu, 13 Insufficient cpu, \
                        2 node(s) didn't match Pod's node affinity/selector.";
        assert_eq!(diagnosis.message(15), expected);
    }

    #[test]
    fn pre_filter_message_replaces_the_histogram() {
        let diagnosis = Diagnosis { pre_filter: Some("claim lost".into()), ..Diagnosis::default() };
        assert_eq!(diagnosis.message(3), "0/3 nodes are available: claim lost.");
    }
}
