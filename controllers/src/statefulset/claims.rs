//! The volume claims of a set's pods: made before the pod, and owned by the set or the pod where the retention policy
//! wants them deleted with it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::identity;
use crate::meta::{is_terminating, name, namespace, uid};
use crate::runtime::{Action, Note, Object, Store};

/// Who should own a claim by the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    with_set: bool,
    when_scaled: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |field: Option<&String>| field.map(String::as_str) == Some("Delete");
    Policy {
        with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        when_scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

/// The state of one pod's claims.
pub enum Claims {
    /// All there; these owner references must be corrected.
    Ready(Vec<Action>),
    /// These must be made first.
    Missing(Vec<Action>),
    /// One is on its way out, or belongs to a pod that is gone: the pod must wait.
    Blocked,
}

/// Looks at the claims of a pod (existing or to be made).
pub fn of_pod(set: &StatefulSet, pod: &Pod, ordinal: i32, store: &Store<PersistentVolumeClaim>) -> Claims {
    let (mut missing, mut fixes) = (Vec::new(), Vec::new());
    for template in identity::claim_templates(set) {
        let claim_name = identity::claim_name(set, template, ordinal);
        match store.named(namespace(set), &claim_name) {
            None => missing.push(create(set, pod, template, claim_name)),
            Some(claim) if is_terminating(claim.as_ref()) => return Claims::Blocked,
            Some(claim) => {
                let exists = pod.metadata.uid.is_some();
                if !exists && policy(set).when_scaled && owns::<Pod>(&claim, name(pod)) {
                    return Claims::Blocked;
                }
                if exists {
                    fixes.extend(fix(set, pod, ordinal, &claim));
                }
            }
        }
    }
    if missing.is_empty() { Claims::Ready(fixes) } else { Claims::Missing(missing) }
}

fn create(set: &StatefulSet, pod: &Pod, template: &PersistentVolumeClaim, claim_name: String) -> Action {
    let mut claim = template.clone();
    claim.metadata.name = Some(claim_name.clone());
    claim.metadata.namespace = set.metadata.namespace.clone();
    claim.status = None;
    let labels = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    claim.metadata.labels.get_or_insert_default().extend(labels);
    let told = |word: &str, end: &str| {
        format!("Create Claim {claim_name}{word} Pod {} in StatefulSet {} {end}", name(pod), name(set))
    };
    Action::create(&claim)
        .tolerating(&[409])
        .noting(Note::normal(set, "SuccessfulCreate", told("", "success")))
        .noting_failure(Note::warning(set, "FailedCreate", told(" for", "failed error: {error}")))
}

fn owns<P: Object>(claim: &PersistentVolumeClaim, owner: &str) -> bool {
    let references = claim.metadata.owner_references.iter().flatten();
    references.into_iter().any(|reference| reference.kind == P::kind(&()) && reference.name == owner)
}

fn reference<P: Object>(owner: &P) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(true), ..crate::meta::owner_reference(owner) }
}

fn is<P: Object>(reference: &OwnerReference, owner: &P) -> bool {
    reference.kind == P::kind(&()) && reference.name == name(owner)
}

/// Corrects a claim's owners. One that still names an earlier set or pod of the same name is left to the collector.
fn fix(set: &StatefulSet, pod: &Pod, ordinal: i32, claim: &PersistentVolumeClaim) -> Option<Action> {
    let have = claim.metadata.owner_references.clone().unwrap_or_default();
    let stale = |reference: &OwnerReference| {
        (is(reference, set) && reference.uid != uid(set)) || (is(reference, pod) && reference.uid != uid(pod))
    };
    if have.iter().any(stale) {
        return None;
    }
    let mut wanted: Vec<OwnerReference> =
        have.iter().filter(|r| !is(r, set) && !is(r, pod)).cloned().collect();
    // With another controller in charge of the claim the policy is not ours to apply.
    if !wanted.iter().any(|reference| reference.controller == Some(true)) {
        let scaled_down = !identity::in_range(set, ordinal);
        match policy(set) {
            Policy { when_scaled: true, .. } if scaled_down => wanted.push(reference(pod)),
            Policy { with_set: true, .. } => wanted.push(reference(set)),
            _ => {}
        }
    }
    if wanted == have {
        return None;
    }
    Some(crate::claim::set_owners(claim, &wanted).tolerating(&[404]))
}
