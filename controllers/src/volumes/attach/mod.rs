//! Attaches volumes of CSI drivers to the nodes whose pods mount them, and detaches them when no pod does. Its keys are
//! nodes. What is attached is what the VolumeAttachments say; the drivers' attachers act on these.
//!
//! Invariants, upstream's: a volume that only one node may have is attached to a second only when the first has let
//! go; a volume is detached only when its node has unmounted it (asked at the API server, not in a cache), unless the
//! node is out of service, or was not healthy for six minutes; the node stops being told that a volume is attached
//! before it is detached.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{BY_CLAIM, by_claim, claim_key, claims_of, pods_of};
use crate::meta::{annotation, name, namespace};
use crate::node_lifecycle::BY_NODE;
use crate::pods::node_name;
use crate::runtime::store::IndexValues;
use crate::runtime::{Context, Controller, Enqueue, Key, Plan, ReconcileError, Store, Wiring};

mod desired;
mod detach;
mod identity;
#[cfg(test)]
mod tests;
mod turn;

/// Index of attachments: the node.
const ON_NODE: &str = "node";
/// On a node: its agent leaves attaching to this loop.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

struct AttachDetach {
    nodes: Store<Node>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    drivers: Store<CSIDriver>,
    attachments: Store<VolumeAttachment>,
    memory: Mutex<Memory>,
    force_detach: bool,
}

/// What a new process may forget: since when a detachment is wanted, and which failures were told already.
#[derive(Default)]
struct Memory {
    unwanted_since: FxHashMap<String, Duration>,
    told: FxHashMap<String, String>,
}

fn on_node(attachment: &VolumeAttachment) -> IndexValues {
    [attachment.spec.node_name.as_str().into()].into_iter().collect()
}

fn add_node(queue: &mut Enqueue, pod: &Pod) {
    if !node_name(pod).is_empty() && claims_of(pod).next().is_some() {
        queue.add(Key::cluster(node_name(pod)));
    }
}

/// What of a node matters here.
fn facts(node: &Node) -> (Option<&str>, bool, bool, Option<&Vec<String>>) {
    let in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.as_ref());
    (annotation(node, MANAGED), crate::nodes::is_ready(node), detach::is_out_of_service(node), in_use)
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let pods = wiring.on::<Pod>(|change, queue| change.both().for_each(|pod| add_node(queue, pod)));
    pods.add_index(BY_CLAIM, by_claim);
    pods.add_index(BY_NODE, crate::node_lifecycle::by_node);
    let users = pods.clone();
    let claims = wiring.on::<PersistentVolumeClaim>(move |change, queue| {
        if let Some(claim) = change.latest() {
            pods_of(&users, &Key::of(claim.as_ref())).iter().for_each(|pod| add_node(queue, pod));
        }
    });
    let users = pods.clone();
    let volumes = wiring.on::<PersistentVolume>(move |change, queue| {
        let claim = change.latest().and_then(|volume| claim_key(volume));
        claim.iter().flat_map(|claim| pods_of(&users, claim)).for_each(|pod| add_node(queue, &pod));
    });
    let (users, known) = (pods.clone(), volumes.clone());
    let attachments = wiring.on::<VolumeAttachment>(move |change, queue| {
        let Some(attachment) = change.latest() else { return };
        queue.add(Key::cluster(&attachment.spec.node_name));
        // Another node may be waiting for this one to let go.
        let volume = attachment.spec.source.persistent_volume_name.as_deref();
        let claim = volume.and_then(|volume| known.named("", volume)).and_then(|volume| claim_key(&volume));
        claim.iter().flat_map(|claim| pods_of(&users, claim)).for_each(|pod| add_node(queue, &pod));
    });
    attachments.add_index(ON_NODE, on_node);
    let nodes = wiring.on::<Node>(|change, queue| {
        let before = change.old.as_ref().map(|node| facts(node));
        if let Some(node) = change
            .latest()
            .filter(|_| change.new.is_none() || before != change.new.as_ref().map(|n| facts(n)))
        {
            queue.add(Key::cluster(name(node.as_ref())));
        }
    });
    let all = nodes.clone();
    let drivers = wiring.on::<CSIDriver>(move |_, queue| {
        all.all().iter().for_each(|node| queue.add(Key::cluster(name(node.as_ref()))));
    });
    let force_detach = !wiring.options().volumes.disable_force_detach_on_timeout;
    let memory = Mutex::default();
    Box::new(AttachDetach { nodes, pods, claims, volumes, drivers, attachments, memory, force_detach })
}

impl Controller for AttachDetach {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        Ok(self.turn(&key.name, context))
    }

    fn workers(&self) -> usize {
        8
    }
}

impl AttachDetach {
    fn on_node(&self, node: &str) -> Vec<Arc<VolumeAttachment>> {
        self.attachments.by(ON_NODE, node)
    }
}

/// A pod as events name it among pods of its own namespace.
fn listed(pods: &[Arc<Pod>], near: &str) -> (Vec<String>, usize) {
    let local = pods.iter().filter(|pod| namespace(pod.as_ref()) == near);
    let local: Vec<String> = local.map(|pod| name(pod.as_ref()).to_string()).collect();
    let others = pods.len() - local.len();
    (local, others)
}
