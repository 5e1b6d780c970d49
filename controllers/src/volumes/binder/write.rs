//! The writes of a binding. One run never writes an object twice: a binding's spec is written first, its statuses in
//! the run that the first writes bring about.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, is_meant_for, phase_of, phase_of_volume, volume_name,
};
use crate::meta::{annotation, name, uid};
use crate::runtime::{Action, Note, Plan, plan::reference_to};

/// Before a volume grew: what its claim may still use.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// Binds both; nothing when they are bound already.
pub fn bind(plan: &mut Plan, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
    let spec_writes = [volume_to_claim(volume, claim), claim_to_volume(claim, volume)];
    if spec_writes.iter().any(Option::is_some) {
        spec_writes.into_iter().flatten().for_each(|action| plan.act(action));
        return;
    }
    volume_phase(plan, volume, "Bound", "");
    claim_status(plan, claim, "Bound", Some(volume), None);
}

fn volume_to_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Action> {
    let meant = is_meant_for(volume, claim);
    let complete =
        meant && super::super::claim_ref(volume).and_then(|r| r.uid.as_deref()) == Some(uid(claim));
    if complete {
        return None;
    }
    let mut volume = volume.clone();
    volume.spec.get_or_insert_default().claim_ref = Some(reference_to(claim));
    if !meant {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.entry(BOUND_BY_CONTROLLER.into()).or_insert_with(|| "yes".into());
    }
    Some(Action::update(&volume))
}

fn claim_to_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Action> {
    let named = volume_name(claim) == name(volume);
    if named && annotation(claim, BIND_COMPLETED).is_some() {
        return None;
    }
    let mut claim = claim.clone();
    let annotations = claim.metadata.annotations.get_or_insert_default();
    annotations.entry(BIND_COMPLETED.into()).or_insert_with(|| "yes".into());
    if !named {
        annotations.entry(BOUND_BY_CONTROLLER.into()).or_insert_with(|| "yes".into());
        claim.spec.get_or_insert_default().volume_name = Some(name(volume).to_string());
    }
    Some(Action::update(&claim))
}

/// Sets a volume's phase where it differs. Returns whether it did.
pub fn volume_phase(plan: &mut Plan, volume: &PersistentVolume, phase: &str, message: &str) -> bool {
    if phase_of_volume(volume) == phase {
        return false;
    }
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    status.phase = Some(phase.to_string());
    status.message = (!message.is_empty()).then(|| message.to_string());
    plan.act(Action::update_status(&volume));
    true
}

/// Fails a volume and says why, once.
pub fn volume_failed(plan: &mut Plan, volume: &PersistentVolume, reason: &str, message: &str) {
    if volume_phase(plan, volume, "Failed", message) {
        plan.note(Note::warning(volume, reason, message));
    }
}

/// Sets a claim's status where it differs; an event goes with a change of phase.
pub fn claim_status(
    plan: &mut Plan,
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
    note: Option<Note>,
) {
    let mut wanted = claim.clone();
    let changes_phase = phase_of(claim) != phase;
    let status = wanted.status.get_or_insert_default();
    status.phase = Some(phase.to_string());
    match volume {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(volume) => follow(status, volume, changes_phase, phase_of(claim) == "Pending"),
    }
    if wanted.status != claim.status {
        let mut action = Action::update_status(&wanted);
        action.on_success = note.filter(|_| changes_phase);
        plan.act(action);
    }
}

fn follow(
    status: &mut PersistentVolumeClaimStatus,
    volume: &PersistentVolume,
    changes_phase: bool,
    was_pending: bool,
) {
    let Some(spec) = &volume.spec else { return };
    status.access_modes = spec.access_modes.clone();
    if changes_phase {
        match annotation(volume, PRE_RESIZE) {
            Some(before) => {
                let capacity = status.capacity.get_or_insert_default();
                capacity.insert("storage".into(), Quantity(before.to_string()));
            }
            None => status.capacity = spec.capacity.clone().or_else(|| Some(BTreeMap::new())),
        }
    }
    if was_pending {
        status.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
    }
}
