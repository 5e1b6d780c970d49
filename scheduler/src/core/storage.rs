//! Volumes, claims, classes and CSI facts, as far as placement depends on them.
//!
//! Owns the tables, and what decisions have assumed about them until the API shows it: volumes promised to claims
//! and nodes selected for claims. The rules that read the tables are in `volumes`.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::cluster::{Cluster, Uid};
use super::events::Event;
use super::hints::{Occurrence, Payload};
use super::labels::{Labels, NodeSelector, Selector};
use super::migration::Migrated;
use super::profile::{Plugin, Profile};
use super::spec::PodSpec;
use super::status::Refusal;

pub use super::volumes::{VolumeCycle, VolumePlan};

/// A claim's key.
pub type ClaimKey = (Arc<str>, Arc<str>);

/// The claim a volume is reserved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeClaim {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty where a user reserved the volume by name.
    pub uid: Arc<str>,
}

/// A persistent volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    pub name: Arc<str>,
    pub class: Arc<str>,
    pub labels: Labels,
    pub capacity: i64,
    pub access_modes: Vec<Box<str>>,
    pub is_block: bool,
    pub attributes_class: Box<str>,
    pub nodes: Option<NodeSelector>,
    pub claim: Option<VolumeClaim>,
    pub available: bool,
    pub terminating: bool,
    /// CSI driver and volume handle.
    pub csi: Option<(Arc<str>, Box<str>)>,
    /// What a CSI driver makes of an in-tree source.
    pub migrated: Option<Migrated>,
    pub version: u64,
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub class: Arc<str>,
    pub volume: Box<str>,
    /// The `bind-completed` annotation is set.
    pub bound: bool,
    pub selected_node: Option<Box<str>>,
    pub lost: bool,
    pub terminating: bool,
    pub request: i64,
    pub has_request: bool,
    pub access_modes: Vec<Box<str>>,
    pub is_block: bool,
    pub attributes_class: Box<str>,
    pub selector: Option<Selector>,
    /// UID of the pod that controls a generic ephemeral claim.
    pub owner: Box<str>,
    pub version: u64,
}

/// Label keys with the values a class admits; all hold.
pub type TopologyTerm = Vec<(Box<str>, Vec<Box<str>>)>;

/// A storage class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub name: Arc<str>,
    pub provisioner: Arc<str>,
    pub waits_for_consumer: Option<bool>,
    /// Alternatives, each a list of label keys with admitted values.
    pub topologies: Vec<TopologyTerm>,
}

/// What a CSI driver reports of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsiNode {
    pub name: Arc<str>,
    /// Drivers with the number of volumes they can attach, where limited.
    pub limits: Vec<(Arc<str>, Option<i32>)>,
    /// In-tree plugins the node has handed over to CSI drivers, comma separated.
    pub migrated: Box<str>,
}

/// Free capacity of a class where nodes match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub class: Arc<str>,
    /// The largest volume that can be made.
    pub limit: Option<i64>,
    pub nodes: Option<Selector>,
}

/// A volume attached to a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    pub name: Arc<str>,
    pub node: Arc<str>,
    pub attacher: Arc<str>,
    pub volume: Option<Arc<str>>,
}

/// One message about storage; with `deleted` the object is gone.
#[derive(Clone, Debug)]
pub enum StorageInput {
    Volume { volume: Volume, deleted: bool },
    Claim { claim: Claim, deleted: bool },
    Class { class: Class, deleted: bool },
    CsiNode { node: CsiNode, deleted: bool },
    Driver { name: Arc<str>, tracks_capacity: bool, deleted: bool },
    Capacity { capacity: Capacity, deleted: bool },
    Attachment { attachment: Attachment, deleted: bool },
}

/// All tables.
#[derive(Debug, Default)]
pub struct Storage {
    pub volumes: FxHashMap<Arc<str>, Volume>,
    pub claims: FxHashMap<ClaimKey, Claim>,
    pub classes: FxHashMap<Arc<str>, Class>,
    pub csi_nodes: FxHashMap<Arc<str>, CsiNode>,
    /// CSI drivers, and whether they track capacity.
    pub drivers: FxHashMap<Arc<str>, bool>,
    pub capacities: FxHashMap<ClaimKey, Capacity>,
    pub attachments: FxHashMap<Arc<str>, Attachment>,
    assumed: FxHashMap<Uid, Assumed>,
}

/// What to restore when a decision is taken back.
#[derive(Debug, Default)]
struct Assumed {
    volumes: Vec<Volume>,
    claims: Vec<Claim>,
}

impl Storage {
    /// A claim by namespace and name.
    pub fn claim(&self, namespace: &Arc<str>, name: &Arc<str>) -> Option<&Claim> {
        self.claims.get(&(namespace.clone(), name.clone()))
    }

    /// Takes in a message and says which events it is.
    pub fn apply(&mut self, input: StorageInput) -> Vec<Occurrence> {
        let occurrence = match input {
            StorageInput::Volume { volume, deleted } => {
                let name = volume.name.clone();
                change(
                    &mut self.volumes,
                    name,
                    volume,
                    deleted,
                    Event::VolumeAdd,
                    Event::VolumeUpdate,
                    |_, _| true,
                )
            }
            StorageInput::Claim { claim, deleted } => {
                let key = (claim.namespace.clone(), claim.name.clone());
                let kind = change(
                    &mut self.claims,
                    key.clone(),
                    claim,
                    deleted,
                    Event::ClaimAdd,
                    Event::ClaimUpdate,
                    |_, _| true,
                );
                kind.map(|o| Occurrence { payload: Payload::Claim { namespace: key.0, name: key.1 }, ..o })
            }
            StorageInput::Class { class, deleted } => {
                let name = class.name.clone();
                let helps = |old: &Class, new: &Class| old.topologies != new.topologies;
                change(
                    &mut self.classes,
                    name,
                    class,
                    deleted,
                    Event::StorageClassAdd,
                    Event::StorageClassUpdate,
                    helps,
                )
            }
            StorageInput::CsiNode { node, deleted } => {
                let name = node.name.clone();
                change(
                    &mut self.csi_nodes,
                    name,
                    node,
                    deleted,
                    Event::CsiNodeAdd,
                    Event::CsiNodeUpdate,
                    csi_node_helps,
                )
            }
            StorageInput::Driver { name, tracks_capacity, deleted } => {
                self.set_driver(name, tracks_capacity, deleted)
            }
            StorageInput::Capacity { capacity, deleted } => {
                let key = (capacity.namespace.clone(), capacity.name.clone());
                let helps = |old: &Capacity, new: &Capacity| new.limit > old.limit;
                change(
                    &mut self.capacities,
                    key,
                    capacity,
                    deleted,
                    Event::CapacityAdd,
                    Event::CapacityUpdate,
                    helps,
                )
            }
            StorageInput::Attachment { attachment, deleted } => {
                if deleted {
                    self.attachments.remove(&attachment.name);
                    Some(Occurrence { event: Event::AttachmentDelete, payload: Payload::Helpful(true) })
                } else {
                    self.attachments.insert(attachment.name.clone(), attachment);
                    None
                }
            }
        };
        occurrence.into_iter().collect()
    }

    fn set_driver(&mut self, name: Arc<str>, tracks_capacity: bool, deleted: bool) -> Option<Occurrence> {
        let old = if deleted {
            self.drivers.remove(&name)
        } else {
            self.drivers.insert(name.clone(), tracks_capacity)
        };
        let untracked = old == Some(true) && !tracks_capacity && !deleted;
        let payload = Payload::CapacityUntracked { driver: name };
        untracked.then_some(Occurrence { event: Event::CsiDriverUpdate, payload })
    }

    /// The volume part of a cycle: nothing for pods without volumes that matter, a refusal where no node can help.
    pub fn begin(
        &self,
        uid: Uid,
        spec: &PodSpec,
        profile: &Profile,
        cluster: &Cluster,
    ) -> Result<Option<VolumeCycle>, Refusal> {
        if spec.claims.is_empty() && spec.migrated.is_empty() {
            return Ok(None);
        }
        VolumeCycle::begin(uid, spec, profile, self, cluster).map(Some)
    }

    /// Promises a volume to a claim until the API shows it or the decision is taken back.
    pub(super) fn assume_volume(&mut self, uid: Uid, volume: &str, claim: VolumeClaim) {
        if let Some(have) = self.volumes.get_mut(volume) {
            self.assumed.entry(uid).or_default().volumes.push(have.clone());
            have.claim = Some(claim);
        }
    }

    /// Selects the node where a claim's volume is to be made.
    pub(super) fn assume_node(&mut self, uid: Uid, key: &ClaimKey, node: &str) {
        if let Some(have) = self.claims.get_mut(key) {
            self.assumed.entry(uid).or_default().claims.push(have.clone());
            have.selected_node = Some(node.into());
        }
    }

    /// Takes back what was assumed for a pod, unless the API has shown something newer.
    pub fn forget(&mut self, uid: Uid) {
        let Some(assumed) = self.assumed.remove(&uid) else { return };
        for volume in assumed.volumes {
            if let Some(have) = self.volumes.get_mut(&volume.name).filter(|v| v.version == volume.version) {
                *have = volume;
            }
        }
        for claim in assumed.claims {
            let key = (claim.namespace.clone(), claim.name.clone());
            if let Some(have) = self.claims.get_mut(&key).filter(|c| c.version == claim.version) {
                *have = claim;
            }
        }
    }

    /// Forgets what to restore: the pod is bound.
    pub fn settle(&mut self, uid: Uid) {
        self.assumed.remove(&uid);
    }
}

fn csi_node_helps(old: &CsiNode, new: &CsiNode) -> bool {
    let limit = |node: &CsiNode, driver: &Arc<str>| {
        node.limits.iter().find(|(d, _)| d == driver).and_then(|(_, count)| *count).unwrap_or(0)
    };
    old.migrated != new.migrated
        || new.limits.iter().any(|(driver, _)| limit(new, driver) > limit(old, driver))
}

/// Stores a version of an object and says which event that is; `helps` judges an update.
fn change<K: std::hash::Hash + Eq, V>(
    table: &mut FxHashMap<K, V>,
    key: K,
    value: V,
    deleted: bool,
    add: Event,
    update: Event,
    helps: impl Fn(&V, &V) -> bool,
) -> Option<Occurrence> {
    if deleted {
        table.remove(&key);
        return None;
    }
    let (event, helpful) = match table.get(&key) {
        None => (add, true),
        Some(old) => (update, helps(old, &value)),
    };
    table.insert(key, value);
    Some(Occurrence { event, payload: Payload::Helpful(helpful) })
}

/// Whether any plugin that looks at claims is on.
pub fn checks_claims(profile: &Profile) -> bool {
    [Plugin::VolumeBinding, Plugin::VolumeRestrictions, Plugin::VolumeZone, Plugin::NodeVolumeLimits]
        .iter()
        .any(|p| profile.filters(*p))
}
