//! NodeVolumeLimits: how many volumes of a CSI driver a node can attach, against those it has and those to come.
//!
//! A volume counts once a node, under its driver and handle, however many pods use it. In-tree volumes count under
//! the driver that took them over.

use std::collections::HashMap;
use std::sync::Arc;

use super::cluster::Pod;
use super::filter::Overlay;
use super::migration;
use super::profile::Plugin;
use super::status::{self, Refusal};
use super::storage::{Claim, CsiNode};
use super::volumes::OnStorage;

/// Drivers by unique volume name.
type Volumes = HashMap<String, Arc<str>>;

impl OnStorage<'_> {
    pub(super) fn refuse_count(&self, node: u32, overlay: Option<&Overlay>) -> Option<Refusal> {
        let have = &self.cluster.nodes.nodes[node as usize];
        let csi = self.storage.csi_nodes.get(&have.name);
        let mut new = match self.new_volumes(csi.is_some()) {
            Ok(new) => new,
            Err(refusal) => return Some(refusal),
        };
        let limits = limits_of(csi?);
        if new.is_empty() || limits.is_empty() {
            return None;
        }
        let attached = self.attached(node, overlay);
        new.retain(|volume, _| !attached.contains_key(volume));
        let exceeds = limits.iter().any(|(driver, limit)| {
            let count = |all: &Volumes| all.values().filter(|d| d == driver).count() as i32;
            count(&new) > 0 && count(&attached) + count(&new) > *limit
        });
        exceeds.then(|| Refusal::unschedulable(Plugin::NodeVolumeLimits, status::VOLUME_COUNT))
    }

    /// What the pod brings along; migration is on wherever there is a CSINode.
    fn new_volumes(&self, migrates: bool) -> Result<Volumes, Refusal> {
        let mut new = Volumes::new();
        for claim in &self.cycle.claims {
            let Some(found) = self.storage.claim(&self.cycle.namespace, &claim.name) else {
                let (namespace, name) = (&self.cycle.namespace, &claim.name);
                return Err(Refusal::unresolvable_text(
                    Plugin::NodeVolumeLimits,
                    format!("looking up PVC {namespace}/{name}: persistentvolumeclaim {name:?} not found"),
                ));
            };
            new.extend(self.csi_volume(found, migrates));
        }
        if migrates {
            new.extend(self.cycle.inline.iter().map(inline_volume));
        }
        Ok(new)
    }

    /// The volumes of the pods on a node, and those its VolumeAttachments name.
    fn attached(&self, node: u32, overlay: Option<&Overlay>) -> Volumes {
        let have = &self.cluster.nodes.nodes[node as usize];
        let removed = overlay.map_or(&[][..], Overlay::removed);
        let mut attached = Volumes::new();
        for pod in have.pods.iter().filter(|p| !removed.contains(p)).filter_map(|p| self.cluster.pod(*p)) {
            attached.extend(self.volumes_of(pod));
        }
        for attachment in self.storage.attachments.values().filter(|a| a.node == have.name) {
            let volume = attachment.volume.as_ref().and_then(|v| self.storage.volumes.get(v));
            let handle = volume.and_then(|v| match &v.csi {
                Some((_, handle)) => Some(handle),
                None => v.migrated.as_ref().map(|m| &m.handle),
            });
            if let Some(handle) = handle {
                let key = format!("{}/{handle}", attachment.attacher);
                attached.entry(key).or_insert_with(|| attachment.attacher.clone());
            }
        }
        attached
    }

    fn volumes_of(&self, pod: &Pod) -> Volumes {
        let namespace = &pod.spec.class.namespace;
        let claims = pod.spec.claims.iter().filter_map(|c| self.storage.claim(namespace, &c.name));
        let claimed = claims.filter_map(|c| self.csi_volume(c, true));
        claimed.chain(pod.spec.migrated.iter().map(inline_volume)).collect()
    }

    /// Unique name and driver of a claim's CSI volume; a claim without volume counts under its class's driver.
    fn csi_volume(&self, claim: &Claim, migrates: bool) -> Option<(String, Arc<str>)> {
        match self.storage.volumes.get(&*claim.volume) {
            Some(volume) => match &volume.csi {
                Some((driver, handle)) => Some((format!("{driver}/{handle}"), driver.clone())),
                None => volume.migrated.as_ref().filter(|_| migrates).map(inline_volume),
            },
            None => {
                let provisioner = &self.storage.classes.get(&claim.class)?.provisioner;
                let driver = match migration::Plugin::of_provisioner(provisioner) {
                    Some(_) if !migrates => return None,
                    Some(plugin) => plugin.driver.into(),
                    None => provisioner.clone(),
                };
                (!driver.is_empty())
                    .then(|| (format!("{driver}/unbound-{}/{}", claim.namespace, claim.name), driver))
            }
        }
    }
}

fn inline_volume(volume: &migration::Migrated) -> (String, Arc<str>) {
    let driver = volume.plugin.driver;
    (format!("{driver}/{}", volume.handle), driver.into())
}

fn limits_of(node: &CsiNode) -> Vec<(&Arc<str>, i32)> {
    node.limits.iter().filter_map(|(driver, count)| Some((driver, (*count)?))).collect()
}
