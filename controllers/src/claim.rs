//! Whose is it: an owner keeps the dependents that match its selector, releases those that no longer do, and adopts
//! matching orphans. Before adopting it makes sure at the API server that it still exists itself: an orphan adopted
//! by an owner that is gone would be deleted as garbage.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::meta::{controller_ref, is_terminating, owner_reference, uid};
use crate::runtime::{Action, Answer, Ask, Context, Gvr, Key, Object, Verb};

/// What claiming found.
pub enum Claim<K> {
    /// The dependents, and the writes that make it so.
    Settled {
        /// Kept and adopted.
        owned: Vec<Arc<K>>,
        /// Adoptions and releases.
        actions: Vec<Action>,
    },
    /// This must be known first.
    Unsure(Ask),
}

/// Sorts out `candidates` (dependents by owner uid, and orphans of the namespace).
pub fn claim<O: Object, K: Object>(
    owner: &O,
    candidates: Vec<Arc<K>>,
    context: &Context,
    matches: impl Fn(&K) -> bool,
) -> Claim<K> {
    claim_with_finalizer(owner, candidates, context, matches, None)
}

/// The same; what is adopted gets a finalizer too.
pub fn claim_with_finalizer<O: Object, K: Object>(
    owner: &O,
    candidates: Vec<Arc<K>>,
    context: &Context,
    matches: impl Fn(&K) -> bool,
    finalizer: Option<&str>,
) -> Claim<K> {
    let (mut owned, mut actions) = (Vec::new(), Vec::new());
    for object in candidates {
        match controller_ref(object.meta()) {
            Some(by) if by.uid != uid(owner) => {}
            Some(_) if matches(&object) => owned.push(object),
            Some(_) => {
                if !is_terminating(owner) {
                    actions.push(release(owner, object.as_ref()));
                }
            }
            None if is_terminating(owner) || is_terminating(object.as_ref()) || !matches(&object) => {}
            None => match owner_lives(owner, context) {
                Err(ask) => return Claim::Unsure(ask),
                Ok(false) => {}
                Ok(true) => {
                    actions.push(adopt(owner, object.as_ref(), finalizer));
                    owned.push(object);
                }
            },
        }
    }
    Claim::Settled { owned, actions }
}

/// Whether the API server still has this owner (by uid), not being deleted.
fn owner_lives<O: Object>(owner: &O, context: &Context) -> Result<bool, Ask> {
    let key = Key::of(owner);
    let ask = Ask::Get(Gvr::of::<O>().object(&key.namespace, &key.name));
    match context.answer(&ask) {
        None => Err(ask),
        Some(Answer::Json(live)) => {
            let meta = &live["metadata"];
            Ok(meta["uid"].as_str() == Some(uid(owner)) && meta["deletionTimestamp"].is_null())
        }
        Some(_) => Ok(false),
    }
}

fn adopt<O: Object, K: Object>(owner: &O, object: &K, finalizer: Option<&str>) -> Action {
    let mut owners: Vec<OwnerReference> = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|have| have.uid != uid(owner));
    owners.push(owner_reference(owner));
    let mut action = set_owners(object, &owners);
    if let (Some(finalizer), Verb::Patch { body, .. }) = (finalizer, &mut action.verb) {
        let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|have| have == finalizer) {
            finalizers.push(finalizer.to_string());
        }
        body["metadata"]["finalizers"] = json!(finalizers);
    }
    action
}

fn release<O: Object, K: Object>(owner: &O, object: &K) -> Action {
    let mut owners: Vec<OwnerReference> = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|have| have.uid != uid(owner));
    set_owners(object, &owners).tolerating(&[404])
}

/// Replaces the owners of an object in exactly the state that was read.
pub fn set_owners<K: Object>(object: &K, owners: &[OwnerReference]) -> Action {
    let meta = object.meta();
    let owners = if owners.is_empty() { None } else { Some(owners) };
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners }});
    Action::merge(object, patch)
}
