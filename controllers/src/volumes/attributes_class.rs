//! Keeps a VolumeAttributesClass from being deleted while a claim or a volume names it.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use super::protection::{added, without};
use crate::meta::{has_finalizer, is_terminating, name};
use crate::runtime::store::IndexValues;
use crate::runtime::{Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

const FINALIZER: &str = "kubernetes.io/vac-protection";
/// Index of claims and of volumes: the classes they name.
const BY_CLASS: &str = "attributes-class";

struct AttributesClasses {
    classes: Store<VolumeAttributesClass>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
}

fn values<'a>(names: impl Iterator<Item = &'a String>) -> IndexValues {
    let mut values: IndexValues =
        names.filter(|name| !name.is_empty()).map(|name| name.as_str().into()).collect();
    values.dedup();
    values
}

/// The class asked for, the one in force, and the one that is being put in force.
fn of_claim(claim: &PersistentVolumeClaim) -> IndexValues {
    let status = claim.status.as_ref();
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_ref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_ref());
    let target = status.and_then(|status| {
        status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_ref()
    });
    values([asked, current, target].into_iter().flatten())
}

fn of_volume(volume: &PersistentVolume) -> IndexValues {
    values(volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.as_ref()))
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let claims = wiring.on::<PersistentVolumeClaim>(|change, queue| {
        let before = change.old.as_ref().map(|claim| of_claim(claim)).unwrap_or_default();
        before.iter().for_each(|class| queue.add(Key::cluster(class)));
    });
    claims.add_index(BY_CLASS, of_claim);
    let volumes = wiring.on::<PersistentVolume>(|change, queue| {
        let before = change.old.as_ref().map(|volume| of_volume(volume)).unwrap_or_default();
        before.iter().for_each(|class| queue.add(Key::cluster(class)));
    });
    volumes.add_index(BY_CLASS, of_volume);
    Box::new(AttributesClasses { classes: wiring.on_self(), claims, volumes })
}

impl Controller for AttributesClasses {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(class) = self.classes.get(key) else { return Ok(plan) };
        if !is_terminating(class.as_ref()) {
            return Ok(added(class.as_ref(), FINALIZER));
        }
        let named = name(class.as_ref());
        let used =
            !self.claims.by(BY_CLASS, named).is_empty() || !self.volumes.by(BY_CLASS, named).is_empty();
        if !used && has_finalizer(&class.metadata, FINALIZER) {
            plan.act(without(class.as_ref(), FINALIZER));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};

    #[test]
    fn a_class_goes_after_its_last_claim_whatever_dies() {
        let class = json!({"kind": "VolumeAttributesClass", "metadata": {"name": "gold"}, "driverName": "d"});
        let claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "ns"},
            "spec": {"volumeAttributesClassName": "gold"}, "status": {"currentVolumeAttributesClassName": "gold"}});
        let mut scenario = Scenario::new(&[super::build], &[class, claim]);
        let steps: [fn(&mut Model); 2] = [
            |model| model.remove("VolumeAttributesClass", "", "gold", None),
            |model| {
                model.edit("PersistentVolumeClaim", "ns", "c", |c| {
                    c["spec"]["volumeAttributesClassName"] = "x".into()
                })
            },
        ];
        scenario.steps = steps.to_vec();
        {
            let mut world = World::start(&scenario, None, false);
            world.run();
            assert_eq!(world.shared.model.lock().all("VolumeAttributesClass").len(), 1, "still in force");
        }
        scenario.steps.push(|model| model.remove("PersistentVolumeClaim", "ns", "c", None));
        {
            let mut world = World::start(&scenario, None, false);
            assert!(world.run().shared.model.lock().all("VolumeAttributesClass").is_empty());
        }
        assert_eq!(check_crashes(&scenario), 2);
    }
}
