//! Binds claims to volumes, releases volumes whose claim is gone, and reclaims them by their policy. Its keys are
//! claims (with a namespace) and volumes (without).
//!
//! Invariants, upstream's: a binding is written to the volume first (its resourceVersion decides races between
//! claims), then to the claim; a claim that was bound once and has lost its volume is never bound again; a volume is
//! released only when the API server itself says that its claim is gone. Making and removing what is behind a volume
//! is other loops' work ([`super::local_path`], CSI sidecars): this one only names the provisioner on the claim.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{BY_CLAIM, by_claim, claim_key, class_of, class_of_volume, phase_of, volume_name};
use crate::meta::{name, namespace};
use crate::runtime::store::IndexValues;
use crate::runtime::{Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

mod claim;
mod matching;
mod provision;
mod reclaim;
#[cfg(test)]
mod tests;
mod unbind;
mod volume;
mod write;

/// Index of claims: the class of those still waiting for a volume.
const WAITING: &str = "waiting-class";
/// Upstream's resync: how soon what only another party can change is looked at (and told about) again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The loop's caches.
struct Binder {
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    pods: Store<Pod>,
    helper_image: String,
    provisions: bool,
}

fn waiting_class(claim: &PersistentVolumeClaim) -> IndexValues {
    let waits = volume_name(claim).is_empty() && phase_of(claim) != "Lost";
    waits.then(|| class_of(claim).into()).into_iter().collect()
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let claims = wiring.store::<PersistentVolumeClaim>();
    claims.add_index(WAITING, waiting_class);
    let waiting = claims.clone();
    let volumes = wiring.on::<PersistentVolume>(move |change, queue| {
        let Some(volume) = change.latest() else { return };
        queue.add(Key::cluster(name(volume.as_ref())));
        change.both().filter_map(|volume| claim_key(volume)).for_each(|claim| queue.add(claim));
        let is_free = change.new.as_ref().is_some_and(|volume| super::claim_ref(volume).is_none());
        if is_free
            && change.old.as_ref().is_none_or(|old| old.status != volume.status || old.spec != volume.spec)
        {
            waiting.by(WAITING, class_of_volume(volume)).iter().for_each(|c| queue.add(Key::of(c.as_ref())));
        }
    });
    wiring.on::<PersistentVolumeClaim>(|change, queue| {
        let Some(claim) = change.latest() else { return };
        queue.add(Key::of(claim.as_ref()));
        let named = change.both().map(|claim| volume_name(claim)).filter(|volume| !volume.is_empty());
        named.for_each(|volume| queue.add(Key::cluster(volume)));
    });
    let waiting = claims.clone();
    let classes = wiring.on::<StorageClass>(move |change, queue| {
        let Some(class) = change.new.as_ref() else { return };
        let mut affected = waiting.by(WAITING, name(class.as_ref()));
        if super::is_default_class(class) {
            affected.extend(waiting.by(WAITING, ""));
        }
        affected.iter().for_each(|claim| queue.add(Key::of(claim.as_ref())));
    });
    let pods = wiring.on::<Pod>(|change, queue| {
        let recycled = change.latest().filter(|pod| namespace(pod.as_ref()) == reclaim::NAMESPACE);
        let volume = recycled.and_then(|pod| name(pod.as_ref()).strip_prefix(reclaim::PREFIX));
        if let Some(volume) = volume {
            queue.add(Key::cluster(volume));
        }
    });
    pods.add_index(BY_CLAIM, by_claim);
    let options = &wiring.options().volumes;
    let (helper_image, provisions) = (options.helper_image.clone(), options.provision);
    Box::new(Binder { claims, volumes, classes, pods, helper_image, provisions })
}

impl Controller for Binder {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        if key.namespace.is_empty() {
            return self.volumes.get(key).map_or(Ok(Plan::nothing()), |volume| self.volume(&volume, context));
        }
        self.claims.get(key).map_or(Ok(Plan::nothing()), |claim| self.claim(&claim))
    }
}

impl Binder {
    fn volume_named(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&Key::cluster(name))
    }
}
