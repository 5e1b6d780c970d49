//! The kinds the scheduler watches: their paths, and how each becomes a message for the core.
//!
//! Owns one row per kind. A kind is a wire type, a path and two conversions (present, gone); the reflector does
//! the rest for all of them alike.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::core::cluster::Uid;
use crate::core::intake::Intake;
use crate::core::labels::Taint;
use crate::core::preempt::Budget;
use crate::core::spec::{NodeImage, NodeInput, OwnerKind};
use crate::core::storage::{Attachment, Capacity, Claim, Class, CsiNode, StorageInput, Volume, VolumeClaim};

use super::{convert, requests, wire};

/// The volume that was deleted is told by these annotations and classes of old.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The annotation by which the scheduler asks for a volume near a node.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";

/// A watched kind.
pub trait Kind: DeserializeOwned + Clone + Send + Sync + std::fmt::Debug + 'static {
    /// Path of the collection.
    const PATH: &'static str;
    /// Only objects that this field selector admits; empty for all.
    const FIELD_SELECTOR: &'static str = "";
    /// Clusters without the API are served as well.
    const OPTIONAL: bool = false;

    /// The object's metadata.
    fn meta(&self) -> &wire::Meta;
    /// The message for an object that is there.
    fn present(&self) -> Intake;
    /// The message for one that is gone; the object may hold no more than its metadata.
    fn gone(&self) -> Intake;
    /// An object of which only this metadata is known.
    fn with_meta(meta: wire::Meta) -> Self;
}

macro_rules! kind {
    ($type:ident, $path:literal, $present:expr, $gone:expr $(, $name:ident = $value:expr)*) => {
        impl Kind for wire::$type {
            const PATH: &'static str = $path;
            $(const $name: kind!(@type $name) = $value;)*
            fn meta(&self) -> &wire::Meta {
                &self.metadata
            }
            fn present(&self) -> Intake {
                let f: fn(&Self) -> Intake = $present;
                f(self)
            }
            fn gone(&self) -> Intake {
                let f: fn(&Self) -> Intake = $gone;
                f(self)
            }
            fn with_meta(metadata: wire::Meta) -> Self {
                let mut object = Self::default();
                object.metadata = metadata;
                object
            }
        }
    };
    (@type FIELD_SELECTOR) => { &'static str };
    (@type OPTIONAL) => { bool };
}

kind!(
    Pod,
    "/api/v1/pods",
    |p| convert::pod(p).map_or_else(|| p.gone(), |input| Intake::Pod(Box::new(input))),
    |p| Intake::PodDeleted { uid: Uid::new(&p.metadata.uid) },
    FIELD_SELECTOR = "status.phase!=Succeeded,status.phase!=Failed"
);
kind!(Node, "/api/v1/nodes", |n| Intake::Node(Box::new(node(n))), |n| Intake::NodeDeleted {
    name: n.metadata.name.as_str().into()
});
kind!(
    Namespace,
    "/api/v1/namespaces",
    |n| Intake::Namespace {
        name: n.metadata.name.as_str().into(),
        labels: Some(convert::labels(&n.metadata.labels)),
    },
    |n| Intake::Namespace { name: n.metadata.name.as_str().into(), labels: None }
);
kind!(Service, "/api/v1/services", |s| service(s, s.spec.selector.as_ref()), |s| service(s, None));
kind!(
    ReplicationController,
    "/api/v1/replicationcontrollers",
    |c| {
        let map = c.spec.selector.clone().unwrap_or_default();
        let selector = wire::LabelSelector { match_labels: map, ..Default::default() };
        owner(OwnerKind::ReplicationController, &c.metadata, Some(&selector))
    },
    |c| owner(OwnerKind::ReplicationController, &c.metadata, None)
);

/// A ReplicaSet; the same shape as a StatefulSet, which has its own path.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct ReplicaSet(wire::Controller);

/// A StatefulSet.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct StatefulSet(wire::Controller);

macro_rules! controller_kind {
    ($type:ident, $path:literal, $owner:expr) => {
        impl Kind for $type {
            const PATH: &'static str = $path;
            fn meta(&self) -> &wire::Meta {
                &self.0.metadata
            }
            fn present(&self) -> Intake {
                owner($owner, &self.0.metadata, self.0.spec.selector.as_ref())
            }
            fn gone(&self) -> Intake {
                owner($owner, &self.0.metadata, None)
            }
            fn with_meta(metadata: wire::Meta) -> Self {
                $type(wire::Controller { metadata, ..Default::default() })
            }
        }
    };
}
controller_kind!(ReplicaSet, "/apis/apps/v1/replicasets", OwnerKind::ReplicaSet);
controller_kind!(StatefulSet, "/apis/apps/v1/statefulsets", OwnerKind::StatefulSet);

kind!(
    Budget,
    "/apis/policy/v1/poddisruptionbudgets",
    |b| Intake::Budget { budget: Box::new(budget(b)), deleted: false },
    |b| Intake::Budget { budget: Box::new(budget(b)), deleted: true }
);
kind!(
    PersistentVolume,
    "/api/v1/persistentvolumes",
    |v| storage(StorageInput::Volume { volume: volume(v), deleted: false }),
    |v| storage(StorageInput::Volume { volume: volume(v), deleted: true })
);
kind!(
    PersistentVolumeClaim,
    "/api/v1/persistentvolumeclaims",
    |c| storage(StorageInput::Claim { claim: claim(c), deleted: false }),
    |c| storage(StorageInput::Claim { claim: claim(c), deleted: true })
);
kind!(
    StorageClass,
    "/apis/storage.k8s.io/v1/storageclasses",
    |c| storage(StorageInput::Class { class: class(c), deleted: false }),
    |c| storage(StorageInput::Class { class: class(c), deleted: true })
);
kind!(
    CsiNode,
    "/apis/storage.k8s.io/v1/csinodes",
    |n| storage(StorageInput::CsiNode { node: csi_node(n), deleted: false }),
    |n| storage(StorageInput::CsiNode { node: csi_node(n), deleted: true })
);
kind!(CsiDriver, "/apis/storage.k8s.io/v1/csidrivers", |d| storage(driver(d, false)), |d| storage(driver(
    d, true
)));
kind!(
    CsiStorageCapacity,
    "/apis/storage.k8s.io/v1/csistoragecapacities",
    |c| storage(StorageInput::Capacity { capacity: capacity(c), deleted: false }),
    |c| storage(StorageInput::Capacity { capacity: capacity(c), deleted: true })
);
kind!(
    VolumeAttachment,
    "/apis/storage.k8s.io/v1/volumeattachments",
    |a| storage(StorageInput::Attachment { attachment: attachment(a), deleted: false }),
    |a| storage(StorageInput::Attachment { attachment: attachment(a), deleted: true })
);

fn storage(input: StorageInput) -> Intake {
    Intake::Storage(Box::new(input))
}

/// A node for the core.
pub fn node(node: &wire::Node) -> NodeInput {
    let amounts = &node.status.allocatable;
    let taint = |t: &wire::Taint| {
        let effect = convert::effect(&t.effect)?;
        Some(Taint { key: t.key.as_str().into(), value: t.value.as_str().into(), effect })
    };
    NodeInput {
        name: node.metadata.name.as_str().into(),
        labels: convert::labels(&node.metadata.labels),
        taints: node.spec.taints.iter().filter_map(taint).collect(),
        unschedulable: node.spec.unschedulable,
        allocatable: requests::resources(amounts.iter().map(|(name, q)| (name.as_str(), q.0))),
        pods: amounts.get("pods").map_or(0, |q| q.0.value()),
        images: node.status.images.iter().map(image).collect(),
        features: node.status.declared_features.iter().map(|f| f.as_str().into()).collect(),
    }
}

fn image(image: &wire::Image) -> NodeImage {
    NodeImage { names: image.names.iter().map(|n| n.as_str().into()).collect(), size_bytes: image.size_bytes }
}

fn service(service: &wire::Service, selector: Option<&wire::Map>) -> Intake {
    let pairs = |map: &wire::Map| map.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
    Intake::Service {
        namespace: service.metadata.namespace.as_str().into(),
        name: service.metadata.name.as_str().into(),
        selector: selector.map(pairs),
    }
}

fn owner(kind: OwnerKind, meta: &wire::Meta, selector: Option<&wire::LabelSelector>) -> Intake {
    Intake::Owner {
        kind,
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
        selector: selector.map(|s| convert::selector(Some(s))),
    }
}

fn budget(budget: &wire::Budget) -> Budget {
    Budget {
        namespace: budget.metadata.namespace.as_str().into(),
        name: budget.metadata.name.as_str().into(),
        selector: convert::selector(budget.spec.selector.as_ref()),
        allowed: budget.status.disruptions_allowed,
        disrupted: budget.status.disrupted_pods.keys().map(|n| n.as_str().into()).collect(),
    }
}

fn volume(volume: &wire::PersistentVolume) -> Volume {
    let spec = &volume.spec;
    let text = |s: &str| -> Box<str> { s.into() };
    let annotated = volume.metadata.annotations.get(CLASS_ANNOTATION);
    Volume {
        name: volume.metadata.name.as_str().into(),
        class: annotated.unwrap_or(&spec.storage_class_name).as_str().into(),
        labels: convert::labels(&volume.metadata.labels),
        capacity: spec.capacity.get("storage").map_or(0, |q| q.0.value()),
        access_modes: spec.access_modes.iter().map(|m| text(m)).collect(),
        is_block: spec.volume_mode == "Block",
        attributes_class: text(&spec.volume_attributes_class_name),
        nodes: spec.node_affinity.as_ref().and_then(|a| a.required.as_ref()).map(convert::node_selector),
        claim: spec.claim_ref.as_ref().map(|c| VolumeClaim {
            namespace: c.namespace.as_str().into(),
            name: c.name.as_str().into(),
            uid: c.uid.as_str().into(),
        }),
        available: volume.status.phase == "Available",
        terminating: volume.metadata.deletion_timestamp.is_some(),
        csi: spec.csi.as_ref().map(|c| (c.driver.as_str().into(), text(&c.volume_handle))),
        migrated: super::translate::persistent(volume),
        version: convert::version(&volume.metadata),
    }
}

fn claim(claim: &wire::PersistentVolumeClaim) -> Claim {
    let (meta, spec) = (&claim.metadata, &claim.spec);
    let class = meta.annotations.get(CLASS_ANNOTATION).or(spec.storage_class_name.as_ref());
    let owner = meta.owner_references.iter().find(|o| o.controller);
    Claim {
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
        uid: meta.uid.as_str().into(),
        class: class.map_or("", |c| c.as_str()).into(),
        volume: spec.volume_name.as_str().into(),
        bound: meta.annotations.contains_key(BIND_COMPLETED),
        selected_node: meta.annotations.get(SELECTED_NODE).map(|n| n.as_str().into()),
        lost: claim.status.phase == "Lost",
        terminating: meta.deletion_timestamp.is_some(),
        request: spec.resources.requests.get("storage").map_or(0, |q| q.0.value()),
        has_request: spec.resources.requests.contains_key("storage"),
        access_modes: spec.access_modes.iter().map(|m| m.as_str().into()).collect(),
        is_block: spec.volume_mode == "Block",
        attributes_class: spec.volume_attributes_class_name.as_str().into(),
        selector: spec.selector.as_ref().map(|s| convert::selector(Some(s))),
        owner: owner.map_or("", |o| o.uid.as_str()).into(),
        version: convert::version(meta),
    }
}

fn class(class: &wire::StorageClass) -> Class {
    let requirement = |r: &wire::TopologyRequirement| {
        let values = r.values.iter().map(|v| Box::from(v.as_str())).collect();
        (Box::from(r.key.as_str()), values)
    };
    Class {
        name: class.metadata.name.as_str().into(),
        provisioner: class.provisioner.as_str().into(),
        waits_for_consumer: class.volume_binding_mode.as_ref().map(|m| m == "WaitForFirstConsumer"),
        topologies: class
            .allowed_topologies
            .iter()
            .map(|t| t.match_label_expressions.iter().map(requirement).collect())
            .collect(),
    }
}

fn csi_node(node: &wire::CsiNode) -> CsiNode {
    let limit =
        |d: &wire::NodeDriver| (Arc::from(d.name.as_str()), d.allocatable.as_ref().and_then(|a| a.count));
    CsiNode {
        name: node.metadata.name.as_str().into(),
        limits: node.spec.drivers.iter().map(limit).collect(),
        migrated: node.metadata.annotations.get(MIGRATED_PLUGINS).map_or("", |m| m.as_str()).into(),
    }
}

fn driver(driver: &wire::CsiDriver, deleted: bool) -> StorageInput {
    let name = driver.metadata.name.as_str().into();
    StorageInput::Driver { name, tracks_capacity: driver.spec.storage_capacity, deleted }
}

fn capacity(capacity: &wire::CsiStorageCapacity) -> Capacity {
    let limit = capacity.maximum_volume_size.or(capacity.capacity);
    Capacity {
        namespace: capacity.metadata.namespace.as_str().into(),
        name: capacity.metadata.name.as_str().into(),
        class: capacity.storage_class_name.as_str().into(),
        limit: limit.map(|q| q.0.value()),
        nodes: capacity.node_topology.as_ref().map(|s| convert::selector(Some(s))),
    }
}

fn attachment(attachment: &wire::VolumeAttachment) -> Attachment {
    Attachment {
        name: attachment.metadata.name.as_str().into(),
        node: attachment.spec.node_name.as_str().into(),
        attacher: attachment.spec.attacher.as_str().into(),
        volume: attachment.spec.source.persistent_volume_name.as_ref().map(|n| n.as_str().into()),
    }
}
