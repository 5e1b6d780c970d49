//! Takes a volume back from a claim that turned out not to be its own.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::super::BOUND_BY_CONTROLLER;
use crate::meta::annotation;
use crate::runtime::Action;

/// The write. What a user reserved stays reserved, without the uid.
pub fn unbind(volume: &PersistentVolume) -> Action {
    let mut free = volume.clone();
    let by_controller = annotation(volume, BOUND_BY_CONTROLLER).is_some();
    let spec = free.spec.get_or_insert_default();
    if by_controller {
        spec.claim_ref = None;
        let annotations = free.metadata.annotations.get_or_insert_default();
        annotations.remove(BOUND_BY_CONTROLLER);
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    Action::update(&free)
}
