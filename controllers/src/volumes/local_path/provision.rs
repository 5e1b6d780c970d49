//! Makes the volume of a claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::helper_pod::only_node;
use super::super::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER_FINALIZER, SELECTED_NODE, waits_for_consumer,
};
use super::{LocalPath, NAME, PATH_PARAMETER, is_ours};
use crate::meta::{annotation, is_terminating, label, name, namespace, uid};
use crate::nodes;
use crate::runtime::{Action, Note, Plan, plan::reference_to};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// One node at a time: a directory is on one machine.
const MODES: [&str; 2] = ["ReadWriteOnce", "ReadWriteOncePod"];

impl LocalPath {
    pub(super) fn provision(&self, claim: &PersistentVolumeClaim) -> Plan {
        let mut plan = Plan::nothing();
        let Some(class) = self.class_named(claim).filter(|_| !is_terminating(claim)) else { return plan };
        if self.volumes.named("", &volume_name_for(claim)).is_some() {
            return plan;
        }
        if let Some(why) = refusal(claim) {
            let text =
                format!("failed to provision volume with StorageClass {:?}: {why}", name(class.as_ref()));
            plan.note(Note::warning(claim, "ProvisioningFailed", text));
            return plan;
        }
        let Some(node) = self.node_for(claim, &class, &mut plan) else { return plan };
        let volume = self.volume(claim, &class, &node);
        let (volume_name, claim_key) = (volume_name_for(claim), crate::runtime::Key::of(claim));
        let text = format!("External provisioner is provisioning volume for claim \"{claim_key}\"");
        plan.note(Note::normal(claim, "Provisioning", text));
        let done = format!("Successfully provisioned volume {volume_name}");
        let failed = format!("Error creating provisioned PV object for claim {claim_key}: {{error}}");
        plan.act(
            Action::create(&volume)
                .tolerating(&[409])
                .noting(Note::normal(claim, "ProvisioningSucceeded", done))
                .noting_failure(Note::warning(claim, "ProvisioningFailed", failed)),
        );
        plan
    }

    /// The node the scheduler selected; without a scheduler's say, the one with the fewest volumes. A selected node
    /// that does not exist is taken back, so that the scheduler selects again.
    fn node_for(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        plan: &mut Plan,
    ) -> Option<Arc<Node>> {
        let Some(selected) = annotation(claim, SELECTED_NODE) else {
            let chosen = if waits_for_consumer(class) { None } else { self.emptiest() };
            if chosen.is_none() && !waits_for_consumer(class) {
                plan.note(Note::warning(claim, "ProvisioningFailed", "no node is ready"));
                plan.again_after(super::super::binder::LOOK_AGAIN);
            }
            return chosen;
        };
        let node = self.nodes.named("", selected);
        if node.is_none() {
            let text = format!("Failed to get target node: node {selected:?} not found");
            plan.note(Note::warning(claim, "ProvisioningFailed", text));
            let mut claim = claim.clone();
            claim.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
            plan.act(Action::update(&claim));
        }
        node
    }

    fn emptiest(&self) -> Option<Arc<Node>> {
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        for volume in self.volumes.all().iter().filter(|volume| is_ours(volume)) {
            if let Some(node) = volume.spec.as_ref().and_then(only_node) {
                *used.entry(node.to_string()).or_default() += 1;
            }
        }
        let usable = |node: &Arc<Node>| {
            let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
            nodes::is_ready(node) && !cordoned
        };
        let load = |node: &Arc<Node>| {
            (used.get(hostname(node)).copied().unwrap_or(0), name(node.as_ref()).to_string())
        };
        self.nodes.all().into_iter().filter(usable).min_by_key(load)
    }

    fn volume(&self, claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> PersistentVolume {
        let volume_name = volume_name_for(claim);
        let root = class.parameters.as_ref().and_then(|parameters| parameters.get(PATH_PARAMETER));
        let root = root.cloned().unwrap_or_else(|| self.settings.local_path_root.display().to_string());
        let directory = format!("{volume_name}_{}_{}", namespace(claim), name(claim));
        let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
        let annotations = [(PROVISIONED_BY, NAME), (BOUND_BY_CONTROLLER, "yes")]
            .map(|(k, v)| (k.to_string(), v.to_string()));
        let mut size =
            claim.spec.iter().filter_map(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let size = size.next().cloned().unwrap_or_else(|| Quantity("0".into()));
        let spec = PersistentVolumeSpec {
            capacity: Some([("storage".to_string(), size)].into()),
            access_modes: claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
            claim_ref: Some(reference_to(claim)),
            host_path: Some(HostPathVolumeSource {
                path: format!("{}/{directory}", root.trim_end_matches('/')),
                type_: Some("DirectoryOrCreate".into()),
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(on_node(hostname(node))),
            // A volume that must be cleaned up does not go before it is.
            persistent_volume_reclaim_policy: Some(policy.clone()),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeSpec::default()
        };
        let finalizers = (policy == "Delete").then(|| vec![PROVISIONER_FINALIZER.to_string()]);
        let metadata = ObjectMeta {
            name: Some(volume_name),
            annotations: Some(annotations.into()),
            finalizers,
            ..ObjectMeta::default()
        };
        PersistentVolume { metadata, spec: Some(spec), status: None }
    }
}

/// The name of a claim's volume; one claim never gets two.
pub fn volume_name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", uid(claim))
}

fn hostname(node: &Node) -> &str {
    label(node, HOSTNAME).unwrap_or_else(|| name(node))
}

fn on_node(hostname: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![hostname.to_string()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// Why a claim cannot be served from a directory.
fn refusal(claim: &PersistentVolumeClaim) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some(format!("{NAME} does not support block volume provisioning"));
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some(format!("{NAME} cannot provision a claim with a data source"));
    }
    let mut modes = spec.access_modes.iter().flatten();
    let wrong = modes.find(|mode| !MODES.contains(&mode.as_str()))?;
    Some(format!("{NAME} supports only {}, not {wrong}", MODES.join(" and ")))
}
