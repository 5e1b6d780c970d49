//! Asking a provisioner for a volume: its name goes onto the claim, and the provisioner (a CSI sidecar, or the built-in
//! one) does the rest. Plugins that were built in once are asked under the name of the driver that took over.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::super::{PROVISIONER, PROVISIONER_BETA, class_of, migration};
use super::LOOK_AGAIN;
use crate::meta::annotation;
use crate::runtime::{Action, Note, Plan};

/// Names the class' provisioner on the claim, or says why there is none.
pub fn ask(plan: &mut Plan, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) {
    let provisioner = match class {
        None => Err(format!("storageclass.storage.k8s.io {:?} not found", class_of(claim))),
        Some(class) => provisioner(class),
    };
    let provisioner = match provisioner {
        Ok(provisioner) => provisioner,
        Err(why) => {
            plan.note(Note::warning(claim, "ProvisioningFailed", why));
            plan.again_after(LOOK_AGAIN);
            return;
        }
    };
    if annotation(claim, PROVISIONER) != Some(provisioner) {
        let mut claim = claim.clone();
        let annotations = claim.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVISIONER_BETA.into(), provisioner.into());
        annotations.insert(PROVISIONER.into(), provisioner.into());
        migration::correct(annotations, &[PROVISIONER]);
        let failed = Note::warning(&claim, "ProvisioningFailed", "Error saving claim: {error}");
        plan.act(Action::update(&claim).noting_failure(failed));
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    plan.note(Note::normal(claim, "ExternalProvisioning", text));
}

fn provisioner(class: &StorageClass) -> Result<&str, String> {
    let named = class.provisioner.as_str();
    match migration::driver_of(named) {
        Some(driver) => Ok(driver),
        None if named.starts_with("kubernetes.io/") => Err(format!("no volume plugin matched name: {named}")),
        None => Ok(named),
    }
}
