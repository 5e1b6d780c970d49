//! Tells who must grow a volume when its claim asks for more. No volume kind is grown from here: CSI volumes are grown
//! by their external resizer, and those of former built-in plugins by the driver that took over, named on the claim.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use serde_json::json;

use super::{amount, claim_ref, migration, phase_of, requested, volume_name};
use crate::meta::{annotation, namespace, uid};
use crate::runtime::{Action, Context, Controller, Key, Note, Plan, ReconcileError, Store, Wiring};

/// On a claim: the driver that is to grow its volume.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// On a volume that is growing: the size before.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

struct Expander {
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
}

/// Builds the loop; it looks at claims whose request grew and at claims that were just bound.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let claims = wiring.on::<PersistentVolumeClaim>(|change, queue| {
        let Some(claim) = &change.new else { return };
        let size = |claim: &PersistentVolumeClaim| requested(claim);
        let grew = change.old.as_ref().is_none_or(|old| {
            size(old).zip(size(claim)).is_some_and(|(old, new)| old.cmp(&new) == Ordering::Less)
        });
        let was_bound = change.old.as_ref().is_some_and(|old| phase_of(old) == "Bound");
        if phase_of(claim) == "Bound" && (grew || !was_bound) {
            queue.add(Key::of(claim.as_ref()));
        }
    });
    Box::new(Expander { claims, volumes: wiring.store() })
}

impl Controller for Expander {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(claim) = self.claims.get(key).filter(|claim| !volume_name(claim).is_empty()) else {
            return Ok(plan);
        };
        let volume = self.volumes.named("", volume_name(&claim));
        let is_its_own = |volume: &PersistentVolume| {
            claim_ref(volume).is_some_and(|by| {
                by.uid.as_deref() == Some(uid(claim.as_ref()))
                    && by.namespace.as_deref() == Some(namespace(claim.as_ref()))
            })
        };
        let Some(volume) = volume.filter(|volume| is_its_own(volume)) else {
            return Err(ReconcileError::invalid(key, "persistent volume is not bound to the claim"));
        };
        if !wants_more(&claim) && annotation(volume.as_ref(), PRE_RESIZE).is_none() {
            return Ok(plan);
        }
        let text = match volume.spec.as_ref().and_then(plugin_of) {
            None => "waiting for an external controller to expand this PVC".to_string(),
            Some(plugin) => {
                let driver = migration::driver_of(plugin).unwrap_or(plugin);
                if annotation(claim.as_ref(), RESIZER) != Some(driver) {
                    let body = json!({"metadata": {"annotations": {RESIZER: driver}}});
                    plan.act(Action::merge_status(claim.as_ref(), body));
                }
                format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc")
            }
        };
        plan.note(Note::normal(claim.as_ref(), "ExternalExpanding", text));
        Ok(plan)
    }
}

fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let have = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let have = have.and_then(|capacity| amount(capacity.get("storage")));
    let wanted = requested(claim);
    wanted.is_some_and(|wanted| have.is_none_or(|have| have.cmp(&wanted) == Ordering::Less))
}

/// The former built-in plugin of a volume.
fn plugin_of(spec: &PersistentVolumeSpec) -> Option<&'static str> {
    let kinds = [
        (spec.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (spec.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (spec.azure_file.is_some(), "kubernetes.io/azure-file"),
        (spec.cinder.is_some(), "kubernetes.io/cinder"),
        (spec.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (spec.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (spec.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
    ];
    kinds.into_iter().find(|(is_it, _)| *is_it).map(|(_, plugin)| plugin)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::Case;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::Scenario;

    fn objects(wanted: &str, have: &str, source: Value) -> Vec<Value> {
        let mut spec =
            json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "u"}, "capacity": {"storage": have}});
        source.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
        vec![
            json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": wanted}}},
                "status": {"phase": "Bound", "capacity": {"storage": have}}}),
            json!({"kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": spec}),
        ]
    }

    #[test]
    fn cases() {
        let csi = || json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        let old = || json!({"gcePersistentDisk": {"pdName": "p"}});
        let patch = "patch /api/v1/namespaces/ns/persistentvolumeclaims/c/status";
        let cases = [
            (objects("2Gi", "1Gi", csi()), "", "waiting for an external controller to expand this PVC"),
            (objects("1Gi", "1Gi", csi()), "", ""),
            (
                objects("2Gi", "1Gi", old()),
                patch,
                "CSI migration enabled for kubernetes.io/gce-pd; waiting for external resizer to expand the pvc",
            ),
        ];
        for (objects, writes, event) in cases {
            let plan = Case::new(super::build, &objects).plan("ns/c");
            let told: Vec<&str> = plan.notes.iter().map(|note| note.message.as_str()).collect();
            assert_eq!((plan.summary().as_str(), told.concat().as_str()), (writes, event));
        }
    }

    #[test]
    fn crashes() {
        let objects = objects("2Gi", "1Gi", json!({"gcePersistentDisk": {"pdName": "p"}}));
        assert_eq!(check_crashes(&Scenario::new(&[super::build], &objects)), 1);
    }
}
