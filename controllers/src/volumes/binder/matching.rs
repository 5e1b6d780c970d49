//! Which volume suits a claim: reserved for it, or else available, of the same class, picked by the selector, with
//! all access modes, and large enough. The fewest modes win, then the smallest.

use std::cmp::Ordering;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use machinery::quantity::Quantity;

use super::super::{
    capacity, claim_ref, class_of, class_of_volume, is_meant_for, phase_of_volume, requested,
};
use crate::meta::{is_terminating, name};
use crate::runtime::ReconcileError;
use crate::selector::Selector;

fn modes(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or(&[])
}

fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let wanted = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    wanted.into_iter().all(|mode| modes(volume).contains(mode))
}

/// Whether one is a block device and the other a file system.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    let have = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    wanted != have
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let have = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    wanted.unwrap_or("") != have.unwrap_or("")
}

fn is_too_small(volume: &PersistentVolume, wanted: Option<Quantity>) -> bool {
    let have = capacity(volume);
    wanted.is_some_and(|wanted| have.is_none_or(|have| have.cmp(&wanted) == Ordering::Less))
}

/// Why a volume that the claim asks for by name cannot serve it, in upstream's words.
pub fn unsuitable(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let why = if is_terminating(volume) {
        format!("the volume is marked for deletion {:?}", name(volume))
    } else if is_too_small(volume, requested(claim)) {
        "requested PV is too small".into()
    } else if class_of_volume(volume) != class_of(claim) {
        "storageClassName does not match".into()
    } else if attributes_differ(claim, volume) {
        "volumeAttributesClassName does not match".into()
    } else if modes_differ(claim, volume) {
        "incompatible volumeMode".into()
    } else if !has_modes(volume, claim) {
        "incompatible accessMode".into()
    } else {
        return None;
    };
    Some(why)
}

/// The best of `volumes`. With `delayed`, only a volume reserved for the claim counts: the scheduler chooses.
pub fn best(
    claim: &PersistentVolumeClaim,
    volumes: Vec<Arc<PersistentVolume>>,
    delayed: bool,
) -> Result<Option<Arc<PersistentVolume>>, ReconcileError> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(Selector::of).transpose()?;
    let wanted = requested(claim);
    let suits = |volume: &Arc<PersistentVolume>| {
        if is_terminating(volume.as_ref())
            || !has_modes(volume, claim)
            || is_too_small(volume, wanted)
            || modes_differ(claim, volume)
            || attributes_differ(claim, volume)
        {
            return false;
        }
        if claim_ref(volume).is_some() {
            return is_meant_for(volume, claim);
        }
        !delayed
            && phase_of_volume(volume) == "Available"
            && class_of_volume(volume) == class_of(claim)
            && selector.as_ref().is_none_or(|s| s.matches(volume.metadata.labels.as_ref()))
    };
    let order = |a: &Arc<PersistentVolume>, b: &Arc<PersistentVolume>| {
        let reserved = |volume: &PersistentVolume| claim_ref(volume).is_none();
        let first = (reserved(a), modes(a).len()).cmp(&(reserved(b), modes(b).len()));
        let size = || capacity(a).partial_cmp(&capacity(b)).unwrap_or(Ordering::Equal);
        first.then_with(size).then_with(|| name(a.as_ref()).cmp(name(b.as_ref())))
    };
    Ok(volumes.into_iter().filter(suits).min_by(order))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut value = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        for (field, change) in more.as_object().expect("fields") {
            match field.as_str() {
                "labels" => value["metadata"]["labels"] = change.clone(),
                "phase" => value["status"]["phase"] = change.clone(),
                _ => value["spec"][field] = change.clone(),
            }
        }
        Arc::new(serde_json::from_value(value).expect("a volume"))
    }

    #[test]
    fn the_best_volume() {
        let claim = |more: Value| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "c",
                "resources": {"requests": {"storage": "5Gi"}}});
            more.as_object().into_iter().flatten().for_each(|(k, v)| spec[k] = v.clone());
            json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": spec})
        };
        let reserved = |uid: Value| json!({"claimRef": {"namespace": "ns", "name": "a", "uid": uid}, "storageClassName": "z"});
        let cases = [
            (
                claim(json!({})),
                vec![volume("big", "10Gi", json!({})), volume("fits", "5Gi", json!({}))],
                "fits",
            ),
            (claim(json!({})), vec![volume("small", "4Gi", json!({}))], ""),
            (claim(json!({})), vec![volume("other", "5Gi", json!({"storageClassName": "d"}))], ""),
            (claim(json!({})), vec![volume("taken", "5Gi", json!({"phase": "Released"}))], ""),
            (claim(json!({})), vec![volume("block", "5Gi", json!({"volumeMode": "Block"}))], ""),
            (
                claim(json!({})),
                vec![
                    volume("many", "5Gi", json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]})),
                    volume("few", "50Gi", json!({})),
                ],
                "few",
            ),
            (claim(json!({"accessModes": ["ReadWriteMany"]})), vec![volume("once", "5Gi", json!({}))], ""),
            (
                claim(json!({"selector": {"matchLabels": {"k": "v"}}})),
                vec![volume("a", "5Gi", json!({})), volume("b", "9Gi", json!({"labels": {"k": "v"}}))],
                "b",
            ),
            (
                claim(json!({})),
                vec![volume("free", "5Gi", json!({})), volume("mine", "9Gi", reserved(json!("u")))],
                "mine",
            ),
            (claim(json!({})), vec![volume("theirs", "9Gi", reserved(json!("other")))], ""),
        ];
        for (claim, volumes, expected) in cases {
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
            let found = best(&claim, volumes, false).expect("an answer");
            let found = found.as_ref().map_or("", |volume| name(volume.as_ref()));
            assert_eq!(found, expected, "{claim:?}");
        }
    }

    #[test]
    fn with_delay_only_a_reserved_volume_counts() {
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {"storageClassName": "c"}}),
        )
        .expect("a claim");
        assert!(best(&claim, vec![volume("free", "5Gi", json!({}))], true).expect("an answer").is_none());
        let mine = json!({"claimRef": {"namespace": "ns", "name": "a"}});
        assert!(best(&claim, vec![volume("mine", "5Gi", mine)], true).expect("an answer").is_some());
    }
}
