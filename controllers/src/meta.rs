//! Facts about any object's metadata: owners, labels, finalizers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::runtime::Object;

/// Labels or annotations.
pub type StringMap = BTreeMap<String, String>;

/// The finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of orphaning deletion.
pub const ORPHAN: &str = "orphan";

/// The owner that controls an object.
pub fn controller_ref(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The owner that controls an object, if it is of kind `P` (in any version).
pub fn controller_of<K: Object, P: Object>(object: &K) -> Option<&OwnerReference> {
    let owner = controller_ref(object.meta())?;
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    (owner.kind == P::kind(&()) && group == P::group(&())).then_some(owner)
}

/// Whether this very object (by uid) controls another.
pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_ref(meta).map(|found| found.uid.as_str()) == owner.uid.as_deref()
}

/// A reference that makes `owner` the controller and blocks its foreground deletion.
pub fn owner_reference<P: Object>(owner: &P) -> OwnerReference {
    OwnerReference {
        api_version: P::api_version(&()).into_owned(),
        kind: P::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The object's name.
pub fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or("")
}

/// The object's namespace; empty outside all namespaces.
pub fn namespace<K: Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or("")
}

/// The object's uid.
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or("")
}

/// Whether the object is being deleted.
pub fn is_terminating<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// The value of a label.
pub fn label<'a, K: Resource>(object: &'a K, name: &str) -> Option<&'a str> {
    object.meta().labels.as_ref()?.get(name).map(String::as_str)
}

/// The value of an annotation.
pub fn annotation<'a, K: Resource>(object: &'a K, name: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether an object has a finalizer.
pub fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|have| have == finalizer)
}

/// Milliseconds since the epoch at which the object was made; the order of age.
pub fn created_at(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(i64::MAX, |at| at.0.as_millisecond())
}
