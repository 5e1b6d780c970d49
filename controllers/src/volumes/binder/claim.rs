//! A claim's turn.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER, PROVISIONER_BETA, SELECTED_NODE, claim_ref, class_of,
    default_class, has_class, is_meant_for, is_terminated, migration, pods_of, volume_name,
    waits_for_consumer,
};
use super::write::{bind, claim_status};
use super::{Binder, LOOK_AGAIN, matching};
use crate::meta::{annotation, name, namespace, uid};
use crate::pods::node_name;
use crate::runtime::{Action, Failure, Key, Note, Plan, ReconcileError};

const LOST: &str = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
const LOST_REFERENCE: &str =
    "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
const MISBOUND: &str = "Two claims are bound to the same volume, this one is bound incorrectly";
const NO_CLASS: &str = "no persistent volumes available for this claim and no storage class is set";

impl Binder {
    pub(super) fn claim(&self, claim: &PersistentVolumeClaim) -> Result<Plan, ReconcileError> {
        let mut corrected = claim.clone();
        let annotations = corrected.metadata.annotations.get_or_insert_default();
        if migration::correct(annotations, &[PROVISIONER, PROVISIONER_BETA]) {
            let mut plan = Plan::nothing();
            plan.act(Action::update(&corrected));
            return Ok(plan);
        }
        if annotation(claim, BIND_COMPLETED).is_some() {
            Ok(self.bound_claim(claim))
        } else if volume_name(claim).is_empty() {
            self.free_claim(claim)
        } else {
            Ok(self.claim_with_wish(claim))
        }
    }

    fn bound_claim(&self, claim: &PersistentVolumeClaim) -> Plan {
        let mut plan = Plan::nothing();
        let wanted = volume_name(claim);
        let lost = match self.volume_named(wanted) {
            _ if wanted.is_empty() => ("ClaimLost", LOST_REFERENCE),
            None => ("ClaimLost", LOST),
            Some(volume) => match claim_ref(&volume) {
                Some(by) if by.uid.as_deref() != Some(uid(claim)) => ("ClaimMisbound", MISBOUND),
                _ => {
                    bind(&mut plan, &volume, claim);
                    return plan;
                }
            },
        };
        claim_status(&mut plan, claim, "Lost", None, Some(Note::warning(claim, lost.0, lost.1)));
        plan
    }

    /// The claim names a volume but is not bound yet.
    fn claim_with_wish(&self, claim: &PersistentVolumeClaim) -> Plan {
        let mut plan = Plan::nothing();
        let wanted = volume_name(claim);
        let Some(volume) = self.volume_named(wanted) else {
            claim_status(&mut plan, claim, "Pending", None, None);
            return plan;
        };
        if claim_ref(&volume).is_none()
            && let Some(why) = matching::unsuitable(&volume, claim)
        {
            let why = format!("Cannot bind to requested volume {wanted:?}: {why}");
            plan.note(Note::warning(claim, "VolumeMismatch", why));
            claim_status(&mut plan, claim, "Pending", None, None);
            plan.again_after(LOOK_AGAIN);
            return plan;
        }
        if claim_ref(&volume).is_none() || is_meant_for(&volume, claim) {
            bind(&mut plan, &volume, claim);
            return plan;
        }
        let why = format!("volume {wanted:?} already bound to a different claim.");
        plan.note(Note::warning(claim, "FailedBinding", why));
        if annotation(claim, BOUND_BY_CONTROLLER).is_some() {
            let by = super::super::claim_key(&volume).unwrap_or_else(|| Key::cluster(""));
            let why =
                format!("invalid binding of claim {} to volume {wanted}: claimed by {by}", Key::of(claim));
            plan.problem = Some(Failure::local(why));
        } else {
            claim_status(&mut plan, claim, "Pending", None, None);
        }
        plan
    }

    fn free_claim(&self, claim: &PersistentVolumeClaim) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let class = self.classes.named("", class_of(claim));
        let delayed = class.as_ref().is_some_and(|class| waits_for_consumer(class));
        if let Some(volume) = matching::best(claim, self.volumes.all(), delayed)? {
            bind(&mut plan, &volume, claim);
            return Ok(plan);
        }
        if !has_class(claim)
            && let Some(class) = default_class(&self.classes)
        {
            let mut claim = claim.clone();
            claim.spec.get_or_insert_default().storage_class_name = Some(name(class.as_ref()).to_string());
            plan.act(Action::update(&claim));
            return Ok(plan);
        }
        if delayed && annotation(claim, SELECTED_NODE).is_none() {
            plan.note(self.waiting(claim));
        } else if !class_of(claim).is_empty() {
            if self.provisions {
                super::provision::ask(&mut plan, claim, class.as_deref());
            }
            return Ok(plan);
        } else {
            plan.note(Note::normal(claim, "FailedBinding", NO_CLASS));
        }
        claim_status(&mut plan, claim, "Pending", None, None);
        plan.again_after(LOOK_AGAIN);
        Ok(plan)
    }

    fn waiting(&self, claim: &PersistentVolumeClaim) -> Note {
        let pods = pods_of(&self.pods, &Key::new(namespace(claim), name(claim)));
        let waiting = pods.iter().filter(|pod| !is_terminated(pod) && node_name(pod).is_empty());
        let names: Vec<&str> = waiting.map(|pod| name(pod.as_ref())).collect();
        match names.len() {
            0 => {
                let text = "waiting for first consumer to be created before binding";
                Note::normal(claim, "WaitForFirstConsumer", text)
            }
            1 => {
                let text = format!("waiting for pod {} to be scheduled", names[0]);
                Note::normal(claim, "WaitForPodScheduled", text)
            }
            _ => {
                let text = format!("waiting for pods {} to be scheduled", names.join(","));
                Note::normal(claim, "WaitForPodScheduled", text)
            }
        }
    }
}
