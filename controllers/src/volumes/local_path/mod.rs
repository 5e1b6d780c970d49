//! The built-in provisioner `quarterdeck.dev/local-path`: a directory on the node that runs the first pod. It follows
//! the contract of external provisioners: a claim that names it (and a node) gets a volume, a released volume with
//! policy Delete loses its directory and then itself. The directory is made by the node's agent when it is first
//! mounted (`DirectoryOrCreate`) and removed by a helper pod on that node.
//!
//! Its keys are claims (with a namespace), volumes (without), and [`CLASS_KEY`], which makes the class once.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{PROVISIONED_BY, PROVISIONER, annotation, class_of, default_class, name, namespace, volume_name};
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

mod provision;
mod remove;
#[cfg(test)]
mod tests;

/// The provisioner's name, in classes, claims and volumes.
pub const NAME: &str = "quarterdeck.dev/local-path";
/// Parameter of a class: the directory below which its volumes lie.
const PATH_PARAMETER: &str = "path";
/// The key of the class itself. No object has such a name.
const CLASS_KEY: &str = "@class";

struct LocalPath {
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    settings: crate::options::VolumeOptions,
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(volume, PROVISIONED_BY) == Some(NAME)
}

fn asks_us(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, PROVISIONER) == Some(NAME) && volume_name(claim).is_empty()
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let claims = wiring.on::<PersistentVolumeClaim>(|change, queue| {
        if let Some(claim) = change.new.as_ref().filter(|claim| asks_us(claim)) {
            queue.add(Key::of(claim.as_ref()));
        }
    });
    let volumes = wiring.on::<PersistentVolume>(|change, queue| {
        if let Some(volume) = change.latest().filter(|volume| is_ours(volume)) {
            queue.add(Key::cluster(name(volume.as_ref())));
        }
    });
    let pods = wiring.on::<Pod>(|change, queue| {
        let helper = change.latest().filter(|pod| namespace(pod.as_ref()) == remove::NAMESPACE);
        let volume = helper.and_then(|pod| name(pod.as_ref()).strip_prefix(remove::PREFIX));
        if let Some(volume) = volume {
            queue.add(Key::cluster(volume));
        }
    });
    let known = volumes.clone();
    let nodes = wiring.on::<Node>(move |change, queue| {
        if change.new.is_none() {
            let ours = known.all().into_iter().filter(|volume| is_ours(volume));
            ours.for_each(|volume| queue.add(Key::cluster(name(volume.as_ref()))));
        }
    });
    let settings = wiring.options().volumes.clone();
    if !settings.local_path_class.is_empty() {
        wiring.at_start(Key::cluster(CLASS_KEY));
    }
    Box::new(LocalPath { claims, volumes, classes: wiring.store(), nodes, pods, settings })
}

impl Controller for LocalPath {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        if &*key.name == CLASS_KEY {
            return Ok(self.class());
        }
        if key.namespace.is_empty() {
            return Ok(self.remove(key));
        }
        let claim = self.claims.get(key).filter(|claim| asks_us(claim));
        Ok(claim.map_or_else(Plan::nothing, |claim| self.provision(&claim)))
    }
}

impl LocalPath {
    /// Makes the class where it is not; it becomes the default where there is no other.
    fn class(&self) -> Plan {
        let mut plan = Plan::nothing();
        let wanted = &self.settings.local_path_class;
        if self.classes.named("", wanted).is_none() {
            let is_default = default_class(&self.classes).is_none();
            let annotations = [(super::DEFAULT_CLASS[0].to_string(), is_default.to_string())];
            let class = StorageClass {
                metadata: ObjectMeta {
                    name: Some(wanted.clone()),
                    annotations: Some(annotations.into()),
                    ..ObjectMeta::default()
                },
                provisioner: NAME.into(),
                reclaim_policy: Some("Delete".into()),
                volume_binding_mode: Some("WaitForFirstConsumer".into()),
                ..StorageClass::default()
            };
            plan.act(Action::create(&class).tolerating(&[409]));
        }
        plan
    }

    fn class_named(&self, claim: &PersistentVolumeClaim) -> Option<std::sync::Arc<StorageClass>> {
        self.classes.named("", class_of(claim))
    }
}
