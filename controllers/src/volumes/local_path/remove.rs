//! Removes a released volume: its directory first, by a helper pod on the node, then its finalizer, then the volume,
//! then the pod. Each step shows in the API, so that a new process goes on where the last one ended.

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Node, PersistentVolume, Pod, Volume};

use super::super::helper_pod::{self, Progress, Task, claim_uid, only_node};
use super::super::protection::without;
use super::super::{PROVISIONER_FINALIZER, claim_ref, phase_of_volume, reclaim_policy};
use super::{LocalPath, is_ours};
use crate::meta::{has_finalizer, is_terminating, label, name};
use crate::runtime::{Action, Failure, Key, Note, Plan};

/// Where helper pods run.
pub const NAMESPACE: &str = "kube-system";
/// A helper pod's name before the volume's.
pub const PREFIX: &str = "local-path-remove-";
const MOUNT: &str = "/volumes";

impl LocalPath {
    pub(super) fn remove(&self, key: &Key) -> Plan {
        let mut plan = Plan::nothing();
        let pod = self.pods.named(NAMESPACE, &format!("{PREFIX}{}", key.name));
        let Some(volume) = self.volumes.get(key) else {
            // The last step: the volume is gone, its helper may go.
            pod.filter(|pod| !is_terminating(pod.as_ref()))
                .into_iter()
                .for_each(|pod| plan.act(Action::delete(pod.as_ref())));
            return plan;
        };
        let released = matches!(phase_of_volume(&volume), "Released" | "Failed");
        if !is_ours(&volume) || !released {
            return plan;
        }
        if reclaim_policy(&volume) != "Delete" {
            // The user changed the policy: what the finalizer waited for will not come.
            if has_finalizer(&volume.metadata, PROVISIONER_FINALIZER) {
                plan.act(without(volume.as_ref(), PROVISIONER_FINALIZER));
            }
            return plan;
        }
        match self.directory(&volume) {
            Some((node, path)) => self.clean(&mut plan, &volume, pod.as_deref(), &node, path),
            None => finish(&mut plan, &volume),
        }
        plan
    }

    /// Where the directory is; nothing when its node is gone, and the directory with it.
    fn directory(&self, volume: &PersistentVolume) -> Option<(String, String)> {
        let spec = volume.spec.as_ref()?;
        let (hostname, path) = (only_node(spec)?, spec.host_path.as_ref()?.path.clone());
        let is_it =
            |node: &Node| label(node, "kubernetes.io/hostname").unwrap_or_else(|| name(node)) == hostname;
        let node = self.nodes.all().into_iter().find(|node| is_it(node))?;
        Some((name(node.as_ref()).to_string(), path))
    }

    fn clean(&self, plan: &mut Plan, volume: &PersistentVolume, pod: Option<&Pod>, node: &str, path: String) {
        let works_for = claim_uid(claim_ref(volume));
        match helper_pod::progress(pod, works_for) {
            Progress::Running => {}
            Progress::Succeeded => finish(plan, volume),
            Progress::Stale => pod.into_iter().for_each(|pod| plan.act(Action::delete(pod))),
            Progress::Absent => match self.helper(volume, node, &path) {
                Some(pod) => plan.act(Action::create(&pod).tolerating(&[409])),
                None => {
                    let text = format!("{path:?} is no directory that can be removed");
                    plan.note(Note::warning(volume, "VolumeFailedDelete", text));
                }
            },
            Progress::Failed(why) => {
                plan.note(Note::warning(volume, "VolumeFailedDelete", why.clone()));
                pod.into_iter().for_each(|pod| plan.act(Action::delete(pod)));
                // Comes back with back-off and finds no pod.
                plan.problem = Some(Failure::local(why));
            }
        }
    }

    fn helper(&self, volume: &PersistentVolume, node: &str, path: &str) -> Option<Pod> {
        let (parent, directory) = path
            .rsplit_once('/')
            .filter(|(parent, directory)| !parent.is_empty() && !matches!(*directory, "" | "." | ".."))?;
        let host_path = HostPathVolumeSource { path: parent.into(), type_: Some("DirectoryOrCreate".into()) };
        Some(helper_pod::pod(Task {
            namespace: NAMESPACE,
            name: format!("{PREFIX}{}", name(volume)),
            image: &self.settings.helper_image,
            args: vec!["remove".into(), format!("{MOUNT}/{directory}")],
            volume: Volume { name: "volumes".into(), host_path: Some(host_path), ..Volume::default() },
            mount_path: MOUNT,
            node: Some(node.to_string()),
            works_for: claim_uid(claim_ref(volume)),
        }))
    }
}

/// Nothing is left behind the volume.
fn finish(plan: &mut Plan, volume: &PersistentVolume) {
    if has_finalizer(&volume.metadata, PROVISIONER_FINALIZER) {
        plan.act(without(volume, PROVISIONER_FINALIZER));
    } else if !is_terminating(volume) {
        plan.act(Action::delete(volume));
    }
}
