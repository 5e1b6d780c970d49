//! Cluster events and which plugins they can help.
//!
//! Owns the table of upstream's `EventsToRegister` under its default feature gates. The hints that look closer are
//! in `hints`.

use super::profile::{Plugin, PluginSet};

/// What changed on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeChange {
    Allocatable,
    Label,
    /// Taints, or `spec.unschedulable` switched off.
    Taint,
    Features,
}

/// What changed on a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodChange {
    Label,
    ScaleDown,
    GatesEliminated,
    Toleration,
    /// Anything else.
    Other,
}

/// An event, as specific as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    AssignedPodAdd,
    AssignedPodUpdate(PodChange),
    AssignedPodDelete,
    /// A change of the waiting pod itself.
    PodUpdate(PodChange),
    NodeAdd,
    NodeUpdate(NodeChange),
    NodeDelete,
    VolumeAdd,
    VolumeUpdate,
    ClaimAdd,
    ClaimUpdate,
    StorageClassAdd,
    StorageClassUpdate,
    CsiNodeAdd,
    CsiNodeUpdate,
    CsiDriverUpdate,
    CapacityAdd,
    CapacityUpdate,
    AttachmentDelete,
    /// Wakes every pod: the five-minute flush.
    UnschedulableTimeout,
}

impl Event {
    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Event::AssignedPodAdd => "AssignedPodAdd",
            Event::AssignedPodUpdate(PodChange::Label) => "AssignedPodUpdatePodLabel",
            Event::AssignedPodUpdate(PodChange::ScaleDown) => "AssignedPodUpdatePodScaleDown",
            Event::AssignedPodUpdate(PodChange::Toleration) => "AssignedPodUpdatePodToleration",
            Event::AssignedPodUpdate(_) => "AssignedPodUpdate",
            Event::AssignedPodDelete => "AssignedPodDelete",
            Event::PodUpdate(PodChange::Label) => "UnschedulablePodUpdatePodLabel",
            Event::PodUpdate(PodChange::ScaleDown) => "UnschedulablePodUpdatePodScaleDown",
            Event::PodUpdate(PodChange::Toleration) => "UnschedulablePodUpdatePodToleration",
            Event::PodUpdate(PodChange::GatesEliminated) => {
                "UnschedulablePodUpdatePodSchedulingGatesEliminated"
            }
            Event::PodUpdate(PodChange::Other) => "UnschedulablePodUpdate",
            Event::NodeAdd => "NodeAdd",
            Event::NodeUpdate(NodeChange::Allocatable) => "NodeUpdateNodeAllocatable",
            Event::NodeUpdate(NodeChange::Label) => "NodeUpdateNodeLabel",
            Event::NodeUpdate(NodeChange::Taint) => "NodeUpdateNodeTaint",
            Event::NodeUpdate(NodeChange::Features) => "NodeUpdateNodeDeclaredFeature",
            Event::NodeDelete => "NodeDelete",
            Event::VolumeAdd => "PersistentVolumeAdd",
            Event::VolumeUpdate => "PersistentVolumeUpdate",
            Event::ClaimAdd => "PersistentVolumeClaimAdd",
            Event::ClaimUpdate => "PersistentVolumeClaimUpdate",
            Event::StorageClassAdd => "StorageClassAdd",
            Event::StorageClassUpdate => "StorageClassUpdate",
            Event::CsiNodeAdd => "CSINodeAdd",
            Event::CsiNodeUpdate => "CSINodeUpdate",
            Event::CsiDriverUpdate => "CSIDriverUpdate",
            Event::CapacityAdd => "CSIStorageCapacityAdd",
            Event::CapacityUpdate => "CSIStorageCapacityUpdate",
            Event::AttachmentDelete => "VolumeAttachmentDelete",
            Event::UnschedulableTimeout => "UnschedulableTimeout",
        }
    }

    /// The plugins that have registered for the event.
    pub fn interested(self) -> PluginSet {
        use Plugin::*;
        let plugins: &[Plugin] = match self {
            Event::AssignedPodAdd => &[PodTopologySpread, InterPodAffinity],
            Event::AssignedPodUpdate(PodChange::Label) => &[PodTopologySpread, InterPodAffinity],
            Event::AssignedPodUpdate(PodChange::ScaleDown) => &[NodeResourcesFit],
            Event::AssignedPodUpdate(PodChange::Toleration) => &[PodTopologySpread],
            Event::AssignedPodUpdate(_) => &[],
            Event::AssignedPodDelete => &[
                NodePorts,
                NodeResourcesFit,
                VolumeRestrictions,
                NodeVolumeLimits,
                PodTopologySpread,
                InterPodAffinity,
                DefaultPreemption,
            ],
            Event::PodUpdate(PodChange::Label) => {
                &[PodTopologySpread, InterPodAffinity, NodeDeclaredFeatures]
            }
            Event::PodUpdate(PodChange::ScaleDown) => &[NodeResourcesFit, NodeDeclaredFeatures],
            Event::PodUpdate(PodChange::GatesEliminated) => &[SchedulingGates, NodeDeclaredFeatures],
            Event::PodUpdate(PodChange::Toleration) => {
                &[NodeUnschedulable, TaintToleration, PodTopologySpread, NodeDeclaredFeatures]
            }
            Event::PodUpdate(PodChange::Other) => &[NodeDeclaredFeatures],
            Event::NodeAdd => &[
                NodeUnschedulable,
                NodeName,
                TaintToleration,
                NodeAffinity,
                NodePorts,
                NodeResourcesFit,
                VolumeRestrictions,
                VolumeBinding,
                VolumeZone,
                PodTopologySpread,
                InterPodAffinity,
                NodeDeclaredFeatures,
            ],
            Event::NodeUpdate(NodeChange::Allocatable) => &[NodeResourcesFit],
            Event::NodeUpdate(NodeChange::Label) => {
                &[NodeAffinity, VolumeBinding, VolumeZone, PodTopologySpread, InterPodAffinity]
            }
            Event::NodeUpdate(NodeChange::Taint) => &[NodeUnschedulable, TaintToleration, PodTopologySpread],
            Event::NodeUpdate(NodeChange::Features) => &[NodeDeclaredFeatures],
            Event::NodeDelete => &[PodTopologySpread],
            Event::VolumeAdd | Event::VolumeUpdate => &[VolumeBinding, VolumeZone],
            Event::ClaimAdd => &[VolumeRestrictions, NodeVolumeLimits, VolumeBinding, VolumeZone],
            Event::ClaimUpdate => &[VolumeBinding, VolumeZone],
            Event::StorageClassAdd => &[VolumeBinding, VolumeZone],
            Event::StorageClassUpdate => &[VolumeBinding],
            Event::CsiNodeAdd | Event::CsiNodeUpdate => &[NodeVolumeLimits, VolumeBinding],
            Event::CsiDriverUpdate | Event::CapacityAdd | Event::CapacityUpdate => &[VolumeBinding],
            Event::AttachmentDelete => &[NodeVolumeLimits],
            Event::UnschedulableTimeout => &[],
        };
        let mut set: PluginSet = plugins.iter().copied().collect();
        // An extender tells nobody what would help it: any event may.
        set.insert(Extender);
        set
    }
}
