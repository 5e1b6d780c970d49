//! What makes a pod the n-th of its set: name, host name, labels, volumes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use super::Revisions;
use crate::history::HASH_LABEL;
use crate::meta::{is_controlled_by, label, name};
use crate::pods;

/// Label of a pod: its own name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label of a pod: its ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Splits a pod's name into its set's name and its ordinal.
pub fn parse(pod: &str) -> Option<(&str, i32)> {
    let (parent, ordinal) = pod.rsplit_once('-')?;
    let plain = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    Some((parent, ordinal.parse().ok().filter(|_| plain)?))
}

/// A pod's ordinal.
pub fn ordinal(pod: &Pod) -> Option<i32> {
    parse(name(pod)).map(|(_, ordinal)| ordinal)
}

/// Replicas asked for.
pub fn wanted(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0)
}

/// Whether an ordinal is one of those asked for.
pub fn in_range(set: &StatefulSet, ordinal: i32) -> bool {
    ordinal >= start(set) && ordinal < start(set).saturating_add(wanted(set))
}

/// The name of a claim made from a template.
pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", name(template), name(set))
}

/// The claim templates.
pub fn claim_templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or(&[])
}

/// The new pod of an ordinal, at the revision the strategy gives that ordinal.
pub fn new_pod(set: &StatefulSet, ordinal: i32, revisions: &Revisions) -> Pod {
    let spec = set.spec.as_ref();
    let rolling = spec
        .and_then(|spec| spec.update_strategy.as_ref())
        .filter(|s| s.type_.as_deref() != Some("OnDelete"));
    let below = match rolling.map(|strategy| strategy.rolling_update.as_ref()) {
        Some(Some(rolling)) => rolling.partition.unwrap_or(0),
        Some(None) => set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
        None => 0,
    };
    let update = spec.map(|spec| spec.template.clone()).unwrap_or_default();
    let (template, revision) = if ordinal < start(set).saturating_add(below) {
        (&revisions.current_template, &revisions.current)
    } else {
        (&update, &revisions.update)
    };
    pod_of(set, template, revision, ordinal)
}

fn pod_of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pods::from_template(template, set, "");
    let pod_name = format!("{}-{ordinal}", name(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), pod_name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    labels.insert(HASH_LABEL.into(), revision.to_string());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain =
        set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for template in claim_templates(set) {
        volumes.retain(|volume| volume.name != name(template));
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        };
        volumes.push(Volume {
            name: name(template).to_string(),
            persistent_volume_claim: Some(source),
            ..Volume::default()
        });
    }
    pod
}

/// Whether a pod carries the labels of its ordinal.
pub fn is_labelled(pod: &Pod) -> bool {
    let index = ordinal(pod).map(|ordinal| ordinal.to_string());
    label(pod, POD_NAME) == Some(name(pod)) && label(pod, POD_INDEX) == index.as_deref()
}

/// Whether a pod belongs to the set.
pub fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    is_controlled_by(&pod.metadata, &set.metadata)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_pods() {
        let cases = [
            ("web-0", Some(("web", 0))),
            ("a-b-12", Some(("a-b", 12))),
            ("web", None),
            ("web-x", None),
            ("web--1", Some(("web-", 1))),
        ];
        for (pod, expected) in cases {
            assert_eq!(super::parse(pod), expected, "{pod}");
        }
    }
}
