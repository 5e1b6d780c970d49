//! Volumes: what claims and persistent volumes say about each other, shared by the loops of this folder.
//!
//! - [`binder`]: claims find volumes, volumes are released and reclaimed;
//! - [`protection`]: what is in use is not deleted;
//! - [`expander`]: tells who must grow a volume; [`ephemeral`]: claims of pods' own volumes;
//! - [`local_path`]: the built-in provisioner; [`helper_pod`]: work on a node's disk;
//! - [`attach`]: volumes of CSI drivers attached to nodes; [`attributes_class`]: classes in use stay;
//! - [`migration`]: the names of CSI drivers that took over from built-in plugins.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::Quantity;
use smallvec::SmallVec;

use crate::meta::{annotation, created_at, name, namespace, uid};
use crate::pods;
use crate::runtime::store::IndexValues;
use crate::runtime::{Key, Store};

pub mod attach;
pub mod attributes_class;
pub mod binder;
pub mod ephemeral;
pub mod expander;
pub mod helper_pod;
pub mod local_path;
pub mod migration;
pub mod protection;

/// On a claim: binding is complete; without its volume the claim is lost.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was made by a controller, not by the user, and may be undone.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which its volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The older name of the same.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The finalizer of volumes whose maker must clean up before they go.
pub const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// The annotation that stood for `storageClassName` once and still wins over it.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Index of pods: the claims (`namespace/name`) that a pod mounts.
pub const BY_CLAIM: &str = "claim";

/// The claims a pod mounts, those made for its own volumes included.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = (&Volume, String)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| Some((volume, claim_name(pod, volume)?)))
}

/// The claim that a pod's volume stands for.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref().map(|_| format!("{}-{}", name(pod), volume.name))
}

/// Extracts [`BY_CLAIM`].
pub fn by_claim(pod: &Pod) -> IndexValues {
    claims_of(pod).map(|(_, claim)| format!("{}/{claim}", namespace(pod)).into()).collect::<SmallVec<_>>()
}

/// The pods that mount a claim.
pub fn pods_of(store: &Store<Pod>, claim: &Key) -> Vec<std::sync::Arc<Pod>> {
    store.by(BY_CLAIM, &claim.to_string())
}

/// Succeeded, failed, or deleted and without a running container.
pub fn is_terminated(pod: &Pod) -> bool {
    let containers = || pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running = containers()
        .any(|one| one.state.as_ref().is_some_and(|s| s.terminated.is_none() && s.waiting.is_none()));
    pods::is_finished(pod) || (crate::meta::is_terminating(pod) && !running)
}

/// A claim's class; empty when it asks for none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let named = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(claim, CLASS_BETA).or(named).unwrap_or("")
}

/// Whether a claim says anything about its class, be it "none".
pub fn has_class(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
    named || annotation(claim, CLASS_BETA).is_some()
}

/// A volume's class; empty when it has none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let named = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(volume, CLASS_BETA).or(named).unwrap_or("")
}

/// Whether the class is marked as the default.
pub fn is_default_class(class: &StorageClass) -> bool {
    DEFAULT_CLASS.iter().any(|key| annotation(class, key) == Some("true"))
}

/// The class for claims that name none: the youngest of those marked as default.
pub fn default_class(store: &Store<StorageClass>) -> Option<std::sync::Arc<StorageClass>> {
    let marked = store.all().into_iter().filter(|class| is_default_class(class));
    marked.min_by_key(|class| (-created_at(&class.metadata), name(class.as_ref()).to_string()))
}

/// Whether volumes of the class wait for their first pod.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The name of the volume a claim is bound to (or asks for); empty when none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

/// The claim's phase.
pub fn phase_of(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// The volume's phase.
pub fn phase_of_volume(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// What a volume says about its claim.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The key of the claim that a volume refers to.
pub fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let reference = claim_ref(volume)?;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Some(Key::new(&text(&reference.namespace), &text(&reference.name)))
}

/// Whether a volume is meant for this claim: by name, and by uid where it says one.
pub fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = claim_ref(volume) else { return false };
    let same = |field: &Option<String>, value: &str| field.as_deref().unwrap_or("") == value;
    same(&reference.name, name(claim))
        && same(&reference.namespace, namespace(claim))
        && reference.uid.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == uid(claim))
}

/// What becomes of the volume when its claim is gone.
pub fn reclaim_policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// The number behind an API quantity; nothing counts as zero.
pub fn amount(quantity: Option<&ApiQuantity>) -> Option<Quantity> {
    Quantity::parse(&quantity?.0).ok()
}

/// What a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    amount(resources.requests.as_ref()?.get("storage"))
}

/// What a volume has.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    amount(volume.spec.as_ref()?.capacity.as_ref()?.get("storage"))
}
