//! StorageObjectInUseProtection and PersistentVolumeClaimResize.

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::{Value, json};

use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::checks::quantity;
use crate::kinds::json::{at, flag, push, text, texts};

/// What keeps volumes and claims until nobody uses them: group, resource, finalizer.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The step that adds protecting finalizers.
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let row = PROTECTED.iter().find(|(group, resource, _)| request.is_for(group, resource, ""));
        let Some((_, _, finalizer)) = row.filter(|_| request.creates()) else { return Ok(()) };
        if let Some(object) = request.object.as_deref_mut()
            && !texts(object, &["metadata", "finalizers"]).any(|known| known == *finalizer)
        {
            push(object, &["metadata", "finalizers"], json!(finalizer));
        }
        Ok(())
    }
}

/// The step that lets claims grow only where their class allows it.
pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let updates = request.operation == Operation::Update;
        if !request.is_for("", "persistentvolumeclaims", "") || !updates {
            return Ok(());
        }
        let (new, old) = (request.new_object(), request.old_object());
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(old, &["status", "phase"]) != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let (class, old_class) = (class_of(new), class_of(old));
        let stored = request.ctx.cluster.find("storage.k8s.io", "storageclasses", "", class).await?;
        let allows = stored.is_some_and(|class| flag(&class, &["allowVolumeExpansion"]) == Some(true));
        if class.is_empty() || class != old_class || !allows {
            return Err(request.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ));
        }
        Ok(())
    }
}

fn size(claim: &Object) -> machinery::quantity::Quantity {
    let asked: &Value = at(claim, &["spec", "resources", "requests", "storage"]);
    quantity(asked).unwrap_or_default()
}

/// The class of a claim or volume: the old annotation wins.
pub fn class_of(claim: &Object) -> &str {
    match text(claim, &["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => text(claim, &["spec", "storageClassName"]),
        annotated => annotated,
    }
}
