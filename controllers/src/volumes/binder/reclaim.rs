//! What becomes of a released volume: it is kept, emptied for the next claim, or removed. Removal is the work of who
//! made it; a volume that nobody made and that no plugin can remove fails, as upstream's does.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, Volume};

use super::super::helper_pod::{self, Progress, Task, claim_uid, only_node};
use super::super::{PROVISIONED_BY, claim_key, claim_ref, is_terminated, migration, pods_of, reclaim_policy};
use super::write::volume_failed;
use super::{Binder, LOOK_AGAIN, unbind::unbind};
use crate::meta::{annotation, name, namespace};
use crate::runtime::{Action, Note, Plan};

/// Where recycler pods run.
pub const NAMESPACE: &str = "default";
/// A recycler pod's name before the volume's.
pub const PREFIX: &str = "recycler-for-";
const SCRUB: &str = "/scrub";

impl Binder {
    pub(super) fn reclaim(&self, plan: &mut Plan, volume: &PersistentVolume) {
        if annotation(volume, migration::MIGRATED_TO).is_some() {
            return;
        }
        match reclaim_policy(volume) {
            "Retain" => {}
            "Delete" => delete(plan, volume),
            "Recycle" => self.recycle(plan, volume),
            _ => {
                let text = "Volume has unrecognized PersistentVolumeReclaimPolicy";
                volume_failed(plan, volume, "VolumeUnknownReclaimPolicy", text);
            }
        }
    }

    fn recycle(&self, plan: &mut Plan, volume: &PersistentVolume) {
        let Some(source) = volume.spec.as_ref().and_then(recyclable) else {
            let text = "No recycler plugin found for the volume!";
            return volume_failed(plan, volume, "VolumeFailedRecycle", text);
        };
        if let Some(users) = self.users(volume) {
            let text = format!("Volume is used by pods: {users}");
            plan.note(Note::normal(volume, "VolumeFailedRecycle", text));
            return plan.again_after(LOOK_AGAIN);
        }
        let pod_name = format!("{PREFIX}{}", name(volume));
        let works_for = claim_uid(claim_ref(volume));
        let pod = self.pods.named(NAMESPACE, &pod_name);
        let delete = || pod.as_ref().map(|pod| Action::delete(pod.as_ref()));
        match helper_pod::progress(pod.as_deref(), works_for) {
            Progress::Running => {}
            Progress::Absent => {
                let node = volume.spec.as_ref().and_then(only_node).map(String::from);
                let pod = helper_pod::pod(Task {
                    namespace: NAMESPACE,
                    name: pod_name,
                    image: &self.helper_image,
                    args: vec!["scrub".into(), SCRUB.into()],
                    volume: source,
                    mount_path: SCRUB,
                    node,
                    works_for,
                });
                plan.act(Action::create(&pod).tolerating(&[409]));
            }
            Progress::Stale => delete().into_iter().for_each(|action| plan.act(action)),
            Progress::Failed(why) => {
                delete().into_iter().for_each(|action| plan.act(action));
                volume_failed(plan, volume, "VolumeFailedRecycle", &format!("Recycle failed: {why}"));
                plan.again_after(LOOK_AGAIN);
            }
            Progress::Succeeded => {
                // The pod goes first: left behind, it would speak for the volume's next release.
                delete().into_iter().for_each(|action| plan.act(action));
                let note = Note::normal(volume, "VolumeRecycled", "Volume recycled");
                plan.act(unbind(volume).noting(note));
            }
        }
    }

    /// Pods that still mount the volume although its claim is gone.
    fn users(&self, volume: &PersistentVolume) -> Option<String> {
        let claim = claim_key(volume)?;
        if self.claims.get(&claim).is_some() {
            return None;
        }
        let pods = pods_of(&self.pods, &claim);
        let names = pods.iter().filter(|pod| !is_terminated(pod));
        let names: Vec<String> =
            names.map(|pod| format!("{}/{}", namespace(pod.as_ref()), name(pod.as_ref()))).collect();
        (!names.is_empty()).then(|| names.join(","))
    }
}

/// The volume as a pod may mount it, for the kinds that can be emptied.
fn recyclable(spec: &PersistentVolumeSpec) -> Option<Volume> {
    if spec.host_path.is_none() && spec.nfs.is_none() {
        return None;
    }
    let (host_path, nfs) = (spec.host_path.clone(), spec.nfs.clone());
    Some(Volume { name: "vol".into(), host_path, nfs, ..Volume::default() })
}

fn delete(plan: &mut Plan, volume: &PersistentVolume) {
    let made_by = annotation(volume, PROVISIONED_BY);
    let is_csi = volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some());
    let why = match made_by {
        Some(plugin) if plugin.starts_with("kubernetes.io/") => {
            format!("no volume plugin matched name: {plugin}")
        }
        Some(_) => return,
        None if is_csi => return,
        None => format!(
            "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
            name(volume)
        ),
    };
    volume_failed(plan, volume, "VolumeFailedDelete", &why);
}
