//! Which volumes a node's pods need attached.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use sha2::{Digest, Sha256};

use super::super::{claim_ref, claims_of, is_terminated, phase_of, volume_name};
use super::{AttachDetach, identity};
use crate::meta::{is_controlled_by, name, namespace, uid};
use crate::node_lifecycle::BY_NODE;

/// One volume that a node's pods mount.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The persistent volume's name.
    pub volume: String,
    /// The attachment's name, which follows from driver, handle and node.
    pub attachment: String,
    /// As `node.status.volumesInUse` and `volumesAttached` name it.
    pub unique: String,
    /// The CSI driver.
    pub driver: String,
    /// Whether more than one node may have it.
    pub shared: bool,
    /// The pods.
    pub pods: Vec<Arc<Pod>>,
}

/// The attachment's name.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}"))))
}

/// The volume's name in a node's status.
pub fn unique_name(volume: &PersistentVolume) -> Option<String> {
    let known = identity::of(volume)?;
    Some(format!("kubernetes.io/csi/{}^{}", known.driver, known.handle))
}

/// Whether several nodes may have a volume: its modes say so, or it has none to say.
fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or(&[]);
    modes.is_empty() || modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

impl AttachDetach {
    /// The volumes that pods on a node mount and that need attaching, in order of their names.
    pub(super) fn wanted_on(&self, node: &str) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for pod in self.pods.by(BY_NODE, node).into_iter().filter(|pod| !is_terminated(pod)) {
            for (source, claim) in claims_of(&pod) {
                let Some(volume) = self.volume_of(&pod, source, &claim) else { continue };
                match wanted.iter_mut().find(|have| have.volume == name(volume.as_ref())) {
                    Some(have) => have.pods.push(pod.clone()),
                    None => wanted.extend(self.describe(&volume, node, pod.clone())),
                }
            }
        }
        wanted.sort_by(|a, b| a.volume.cmp(&b.volume));
        wanted
    }

    /// The volume behind a pod's claim, once both sides agree that it is.
    fn volume_of(&self, pod: &Pod, source: &Volume, claim: &str) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.named(namespace(pod), claim)?;
        let foreign = source.ephemeral.is_some() && !is_controlled_by(&claim.metadata, &pod.metadata);
        if foreign || phase_of(&claim) != "Bound" || volume_name(&claim).is_empty() {
            return None;
        }
        let volume = self.volumes.named("", volume_name(&claim))?;
        let agrees = claim_ref(&volume)?.uid.as_deref() == Some(uid(claim.as_ref()));
        agrees.then_some(volume)
    }

    fn describe(&self, volume: &PersistentVolume, node: &str, pod: Arc<Pod>) -> Option<Wanted> {
        let known = identity::of(volume)?;
        let driver = self.drivers.named("", &known.driver);
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            return None;
        }
        Some(Wanted {
            volume: name(volume).to_string(),
            attachment: attachment_name(&known.handle, &known.driver, node),
            unique: unique_name(volume)?,
            driver: known.driver,
            shared: is_shared(volume),
            pods: vec![pod],
        })
    }
}
