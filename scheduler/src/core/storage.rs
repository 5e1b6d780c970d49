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
            StorageInput::Volume { volume, deleted } => change(&mut self.volumes, volume, deleted),
            StorageInput::Claim { claim, deleted } => {
                let (namespace, name) = claim.key();
                let kind = change(&mut self.claims, claim, deleted);
                kind.map(|o| Occurrence { payload: Payload::Claim { namespace, name }, ..o })
            }
            StorageInput::Class { class, deleted } => change(&mut self.classes, class, deleted),
            StorageInput::CsiNode { node, deleted } => change(&mut self.csi_nodes, node, deleted),
            StorageInput::Driver { name, tracks_capacity, deleted } => {
                self.set_driver(name, tracks_capacity, deleted)
            }
            StorageInput::Capacity { capacity, deleted } => change(&mut self.capacities, capacity, deleted),
            StorageInput::Attachment { attachment, deleted } => self.set_attachment(attachment, deleted),
        };
        occurrence.into_iter().collect()
    }

    /// An attachment that goes makes room on its node; one that comes helps nobody.
    fn set_attachment(&mut self, attachment: Attachment, deleted: bool) -> Option<Occurrence> {
        if deleted {
            self.attachments.remove(&attachment.name);
            return Some(Occurrence { event: Event::AttachmentDelete, payload: Payload::Helpful(true) });
        }
        self.attachments.insert(attachment.name.clone(), attachment);
        None
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

/// An object that stands in a table of its own: its key, the events of its coming and changing, and whether a change
/// can help a pod.
trait Row {
    type Key: std::hash::Hash + Eq;
    const ADD: Event;
    const UPDATE: Event;

    fn key(&self) -> Self::Key;

    fn helps(&self, _old: &Self) -> bool {
        true
    }
}

impl Row for Volume {
    type Key = Arc<str>;
    const ADD: Event = Event::VolumeAdd;
    const UPDATE: Event = Event::VolumeUpdate;

    fn key(&self) -> Arc<str> {
        self.name.clone()
    }
}

impl Row for Claim {
    type Key = ClaimKey;
    const ADD: Event = Event::ClaimAdd;
    const UPDATE: Event = Event::ClaimUpdate;

    fn key(&self) -> ClaimKey {
        (self.namespace.clone(), self.name.clone())
    }
}

impl Row for Class {
    type Key = Arc<str>;
    const ADD: Event = Event::StorageClassAdd;
    const UPDATE: Event = Event::StorageClassUpdate;

    fn key(&self) -> Arc<str> {
        self.name.clone()
    }

    fn helps(&self, old: &Self) -> bool {
        old.topologies != self.topologies
    }
}

impl Row for CsiNode {
    type Key = Arc<str>;
    const ADD: Event = Event::CsiNodeAdd;
    const UPDATE: Event = Event::CsiNodeUpdate;

    fn key(&self) -> Arc<str> {
        self.name.clone()
    }

    fn helps(&self, old: &Self) -> bool {
        let limit = |node: &CsiNode, driver: &Arc<str>| {
            node.limits.iter().find(|(d, _)| d == driver).and_then(|(_, count)| *count).unwrap_or(0)
        };
        old.migrated != self.migrated
            || self.limits.iter().any(|(driver, _)| limit(self, driver) > limit(old, driver))
    }
}

impl Row for Capacity {
    type Key = ClaimKey;
    const ADD: Event = Event::CapacityAdd;
    const UPDATE: Event = Event::CapacityUpdate;

    fn key(&self) -> ClaimKey {
        (self.namespace.clone(), self.name.clone())
    }

    fn helps(&self, old: &Self) -> bool {
        self.limit > old.limit
    }
}

/// Stores a version of an object and says which event that is.
fn change<V: Row>(table: &mut FxHashMap<V::Key, V>, value: V, deleted: bool) -> Option<Occurrence> {
    let key = value.key();
    if deleted {
        table.remove(&key);
        return None;
    }
    let (event, helpful) = match table.get(&key) {
        None => (V::ADD, true),
        Some(old) => (V::UPDATE, value.helps(old)),
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
