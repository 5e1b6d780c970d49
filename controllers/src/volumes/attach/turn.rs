//! One node's turn: what to attach, what to detach, and what the node is told to be attached.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, VolumeAttachmentStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::super::{claim_key, is_terminated, pods_of};
use super::desired::{Wanted, unique_name};
use super::detach::{Situation, Verdict, judge};
use super::{AttachDetach, MANAGED, listed};
use crate::meta::{annotation, is_terminating, name, namespace};
use crate::pods::node_name;
use crate::runtime::{Action, Context, Note, Pace, Plan};

fn is_attached(attachment: &VolumeAttachment) -> bool {
    attachment.status.as_ref().is_some_and(|status| status.attached)
}

impl AttachDetach {
    pub(super) fn turn(&self, node_key: &str, context: &Context) -> Plan {
        let mut plan = Plan::nothing();
        let node = self.nodes.named("", node_key);
        let managed = node.as_ref().is_some_and(|node| annotation(node.as_ref(), MANAGED).is_some());
        let wanted = if managed { self.wanted_on(node_key) } else { Vec::new() };
        let present = self.on_node(node_key);
        let mut detach = Vec::new();
        for attachment in &present {
            let is_wanted = wanted.iter().any(|one| one.attachment == name(attachment.as_ref()));
            if is_wanted || is_terminating(attachment.as_ref()) {
                self.memory.lock().unwanted_since.remove(name(attachment.as_ref()));
            } else if self.may_detach(&mut plan, attachment, node.as_deref(), context) {
                detach.push(attachment.clone());
            }
        }
        if !plan.asks.is_empty() {
            return plan;
        }
        if let Some(node) = node.as_deref().filter(|_| managed) {
            self.report(&mut plan, node, &present, &detach, &wanted);
        }
        plan.act_all(Pace::Parallel, detach.iter().map(|one| Action::delete(one.as_ref())).collect());
        let missing =
            wanted.iter().filter(|one| !present.iter().any(|have| name(have.as_ref()) == one.attachment));
        let attach = missing.filter_map(|one| self.attach(&mut plan, one, node_key)).collect();
        plan.act_all(Pace::Parallel, attach);
        self.tell_failures(&mut plan, &present, &wanted);
        plan
    }

    fn may_detach(
        &self,
        plan: &mut Plan,
        attachment: &VolumeAttachment,
        node: Option<&Node>,
        context: &Context,
    ) -> bool {
        let volume = attachment.spec.source.persistent_volume_name.as_deref();
        let unique =
            volume.and_then(|volume| self.volumes.named("", volume)).and_then(|volume| unique_name(&volume));
        // An attachment of a volume that is not known is somebody else's.
        let Some(unique) = unique else { return false };
        let since =
            *self.memory.lock().unwanted_since.entry(name(attachment).to_string()).or_insert(context.elapsed);
        let case = Situation {
            node,
            node_name: &attachment.spec.node_name,
            unique: &unique,
            unwanted_for: context.elapsed.saturating_sub(since),
            by_force: self.force_detach,
        };
        match judge(&case, context) {
            Verdict::Detach => true,
            Verdict::Wait(delay) => {
                plan.again_after(delay);
                false
            }
            Verdict::Ask(ask) => {
                plan.asks.push(ask);
                false
            }
        }
    }

    /// Tells the node what is attached to it, without what is about to be detached.
    fn report(
        &self,
        plan: &mut Plan,
        node: &Node,
        present: &[Arc<VolumeAttachment>],
        detach: &[Arc<VolumeAttachment>],
        wanted: &[Wanted],
    ) {
        let going = |one: &Arc<VolumeAttachment>| detach.iter().any(|d| Arc::ptr_eq(d, one));
        let staying =
            present.iter().filter(|one| is_attached(one) && !is_terminating(one.as_ref()) && !going(one));
        let mut attached: Vec<String> = staying
            .filter_map(|one| self.volumes.named("", one.spec.source.persistent_volume_name.as_deref()?))
            .filter_map(|volume| unique_name(&volume))
            .collect();
        attached.sort();
        let told = node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or(&[]);
        let mut known: Vec<&str> = told.iter().map(|volume| volume.name.as_str()).collect();
        known.sort_unstable();
        if known == attached {
            return;
        }
        for one in wanted
            .iter()
            .filter(|one| attached.contains(&one.unique) && !known.contains(&one.unique.as_str()))
        {
            let text = format!("AttachVolume.Attach succeeded for volume {:?} ", one.volume);
            for pod in &one.pods {
                plan.note(Note::normal(pod.as_ref(), "SuccessfulAttachVolume", text.clone()));
            }
        }
        let list: Vec<Value> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        plan.act(Action::merge_status(node, json!({"status": {"volumesAttached": list}})).tolerating(&[404]));
    }

    fn attach(&self, plan: &mut Plan, one: &Wanted, node: &str) -> Option<Action> {
        let holders = if one.shared { Vec::new() } else { self.other_holders(&one.volume, node) };
        if !holders.is_empty() {
            self.tell_multi_attach(plan, one, &holders);
            return None;
        }
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(one.attachment.clone()), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: one.driver.clone(),
                node_name: node.to_string(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(one.volume.clone()),
                    inline_volume_spec: None,
                },
            },
            status: None::<VolumeAttachmentStatus>,
        };
        Some(Action::create(&attachment).tolerating(&[409]))
    }

    /// Other nodes that have the volume, or are being given it.
    fn other_holders(&self, volume: &str, node: &str) -> Vec<String> {
        let all = self.attachments.all();
        let of_volume =
            all.iter().filter(|one| one.spec.source.persistent_volume_name.as_deref() == Some(volume));
        let mut nodes: Vec<String> =
            of_volume.map(|one| one.spec.node_name.clone()).filter(|holder| holder != node).collect();
        nodes.sort();
        nodes
    }

    fn tell_multi_attach(&self, plan: &mut Plan, one: &Wanted, holders: &[String]) {
        let mark = format!("multi-attach {}", holders.join(","));
        let known = self.memory.lock().told.insert(one.attachment.clone(), mark.clone());
        if known.as_deref() == Some(&mark) {
            return;
        }
        let claim = self.volumes.named("", &one.volume).and_then(|volume| claim_key(&volume));
        let users: Vec<Arc<Pod>> = claim.iter().flat_map(|claim| pods_of(&self.pods, claim)).collect();
        let elsewhere = users.into_iter().filter(|pod| holders.iter().any(|node| node == node_name(pod)));
        let elsewhere: Vec<Arc<Pod>> = elsewhere.filter(|pod| !is_terminated(pod)).collect();
        for pod in &one.pods {
            let why = multi_attach_text(&elsewhere, pod);
            let text = format!("Multi-Attach error for volume {:?} {why}", one.volume);
            plan.note(Note::warning(pod.as_ref(), "FailedAttachVolume", text));
        }
    }

    /// What the drivers say about attachments that fail, once for each failure.
    fn tell_failures(&self, plan: &mut Plan, present: &[Arc<VolumeAttachment>], wanted: &[Wanted]) {
        for one in wanted {
            let attachment = present.iter().find(|have| name(have.as_ref()) == one.attachment);
            let failure =
                attachment.and_then(|a| a.status.as_ref()).and_then(|status| status.attach_error.as_ref());
            let Some(failure) = failure else { continue };
            let why = failure.message.clone().unwrap_or_default();
            let mark =
                format!("{why} {}", failure.time.as_ref().map_or_else(String::new, |at| at.0.to_string()));
            let known = self.memory.lock().told.insert(one.attachment.clone(), mark.clone());
            if known.as_deref() == Some(&mark) {
                continue;
            }
            let text = format!("AttachVolume.Attach failed for volume {:?} : {why}", one.volume);
            for pod in &one.pods {
                plan.note(Note::warning(pod.as_ref(), "FailedAttachVolume", text.clone()));
            }
        }
    }
}

fn multi_attach_text(elsewhere: &[Arc<Pod>], pod: &Pod) -> String {
    let (local, others) = listed(elsewhere, namespace(pod));
    match (local.is_empty(), others) {
        (true, 0) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_string()
        }
        (true, _) => format!("Volume is already used by {others} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", local.join(", ")),
        (false, _) => {
            format!(
                "Volume is already used by pod(s) {} and {others} pod(s) in different namespaces",
                local.join(", ")
            )
        }
    }
}
