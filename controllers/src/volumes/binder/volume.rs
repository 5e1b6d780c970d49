//! A volume's turn: available, bound, released, or bound by mistake.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::super::{
    PROVISIONED_BY, claim_key, claim_ref, migration, phase_of_volume, reclaim_policy, volume_name,
};
use super::write::volume_phase;
use super::{Binder, matching};
use crate::meta::{annotation, name, uid};
use crate::runtime::{Action, Answer, Ask, Context, Failure, Gvr, Key, Note, Plan, ReconcileError};

/// What is known of the claim a volume belongs to.
enum Owner {
    Claim(Box<PersistentVolumeClaim>),
    Gone,
    Ask(Ask),
    Unknown(Failure),
}

impl Binder {
    pub(super) fn volume(
        &self,
        volume: &PersistentVolume,
        context: &Context,
    ) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let mut corrected = volume.clone();
        let annotations = corrected.metadata.annotations.get_or_insert_default();
        if migration::correct(annotations, &[PROVISIONED_BY]) {
            plan.act(Action::update(&corrected));
            return Ok(plan);
        }
        let reserved = claim_ref(volume).and_then(|by| by.uid.as_deref()).is_some_and(|uid| !uid.is_empty());
        if !reserved {
            volume_phase(&mut plan, volume, "Available", "");
            return Ok(plan);
        }
        match self.owner(volume, context) {
            Owner::Ask(ask) => return Ok(plan.ask(ask)),
            Owner::Unknown(failure) => plan.problem = Some(failure),
            Owner::Gone => self.released(&mut plan, volume),
            Owner::Claim(claim) => self.with_claim(&mut plan, volume, &claim),
        }
        Ok(plan)
    }

    fn with_claim(&self, plan: &mut Plan, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
        let wanted = volume_name(claim);
        if wanted.is_empty() {
            // The claim's own turn completes the binding, unless it cannot be.
            if matching::modes_differ(claim, volume) {
                let text = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                    name(claim)
                );
                plan.note(Note::warning(volume, "VolumeMismatch", text));
                let text = format!(
                    "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                    name(volume)
                );
                plan.note(Note::warning(claim, "VolumeMismatch", text));
            }
        } else if wanted == name(volume) {
            volume_phase(plan, volume, "Bound", "");
        } else if annotation(volume, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete" {
            self.released(plan, volume);
        } else {
            plan.act(super::unbind::unbind(volume));
        }
    }

    /// The claim is gone, or bound elsewhere for good.
    fn released(&self, plan: &mut Plan, volume: &PersistentVolume) {
        let is_known = matches!(phase_of_volume(volume), "Released" | "Failed");
        if is_known || !volume_phase(plan, volume, "Released", "") {
            self.reclaim(plan, volume);
        }
    }

    /// The claim by uid. Before a volume is released for the first time the API server is asked: a cache may be old.
    fn owner(&self, volume: &PersistentVolume, context: &Context) -> Owner {
        let wanted = claim_ref(volume).and_then(|by| by.uid.as_deref()).unwrap_or("");
        let Some(key) = claim_key(volume) else { return Owner::Gone };
        let cached = self.claims.get(&key);
        if let Some(claim) = cached.as_ref().filter(|claim| uid(claim.as_ref()) == wanted) {
            return Owner::Claim(Box::new(claim.as_ref().clone()));
        }
        let is_known = matches!(phase_of_volume(volume), "Released" | "Failed");
        if cached.is_none() && is_known {
            return Owner::Gone;
        }
        live(&key, wanted, context)
    }
}

fn live(key: &Key, wanted: &str, context: &Context) -> Owner {
    let ask = Ask::Get(Gvr::of::<PersistentVolumeClaim>().object(&key.namespace, &key.name));
    match context.answer(&ask) {
        None => Owner::Ask(ask),
        Some(Answer::Failed(failure)) if failure.is_not_found() => Owner::Gone,
        Some(Answer::Failed(failure)) => Owner::Unknown(failure.clone()),
        Some(Answer::Json(body)) => {
            match serde_json::from_value::<PersistentVolumeClaim>(body.as_ref().clone()) {
                Ok(claim) if uid(&claim) == wanted => Owner::Claim(Box::new(claim)),
                Ok(_) => Owner::Gone,
                Err(error) => Owner::Unknown(Failure::local(format!("claim {key}: {error}"))),
            }
        }
        Some(Answer::Kinds(_)) => Owner::Unknown(Failure::local("an answer to another question")),
    }
}
