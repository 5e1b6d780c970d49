//! Limits on a pod's local storage: the size of an emptyDir, of one container's files, of the whole pod. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::pod::spec;
use crate::kubelet::quantity;

const RESOURCE: &str = "ephemeral-storage";

/// What a pod uses of the machine's disk, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalUse {
    /// Each emptyDir.
    pub empty_dirs: BTreeMap<String, u64>,
    /// Each container: its writable layer and its logs.
    pub containers: BTreeMap<String, u64>,
    /// All other files of the pod.
    pub other: u64,
}

impl LocalUse {
    /// Everything.
    pub fn total(&self) -> u64 {
        self.empty_dirs.values().chain(self.containers.values()).sum::<u64>() + self.other
    }
}

/// True if anything of the pod's local storage is limited, so that it must be measured.
pub fn has_limits(pod: &Pod) -> bool {
    let volumes = spec::spec(pod);
    let sized = volumes.volumes.iter().flatten().any(|v| {
        v.empty_dir.as_ref().is_some_and(|e| e.size_limit.as_ref().is_some_and(|s| quantity::nano(s) > 0))
    });
    sized || spec::containers(pod).iter().chain(spec::init_containers(pod)).any(|c| limit(c).is_some())
}

fn limit(container: &k8s_openapi::api::core::v1::Container) -> Option<i128> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get(RESOURCE).map(|q| quantity::nano(q) / quantity::NANO).filter(|n| *n > 0)
}

/// Why the pod must go, if it must: the first limit it breaks, in upstream's words.
pub fn broken(pod: &Pod, used: &LocalUse) -> Option<String> {
    empty_dir(pod, used).or_else(|| whole(pod, used)).or_else(|| container(pod, used))
}

fn empty_dir(pod: &Pod, used: &LocalUse) -> Option<String> {
    let spec = spec::spec(pod);
    spec.volumes.iter().flatten().find_map(|volume| {
        let size = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let bytes = quantity::nano(size) / quantity::NANO;
        let over = bytes > 0 && i128::from(*used.empty_dirs.get(&volume.name)?) > bytes;
        over.then(|| {
            format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, size.0)
        })
    })
}

/// The sum of the containers' limits holds for the whole pod, where every container has one.
fn whole(pod: &Pod, used: &LocalUse) -> Option<String> {
    let limits: Option<Vec<i128>> = spec::containers(pod).iter().map(limit).collect();
    let limit: i128 = limits?.iter().sum();
    let text = quantity::exact_bytes(u64::try_from(limit).ok()?);
    (limit > 0 && i128::from(used.total()) > limit)
        .then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "))
}

fn container(pod: &Pod, used: &LocalUse) -> Option<String> {
    let all = spec::containers(pod).iter().chain(spec::init_containers(pod));
    all.filter_map(|c| Some((c, limit(c)?))).find_map(|(container, limit)| {
        let over = i128::from(*used.containers.get(&container.name)?) > limit;
        let text = quantity::exact_bytes(u64::try_from(limit).ok()?);
        over.then(|| {
            format!("Container {} exceeded its local ephemeral storage limit \"{text}\". ", container.name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, used: (u64, u64, u64), expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
        let used = LocalUse {
            empty_dirs: BTreeMap::from([("v".to_owned(), used.0 << 20)]),
            containers: BTreeMap::from([("c".to_owned(), used.1 << 20)]),
            other: used.2 << 20,
        };
        assert_eq!(broken(&pod, &used).as_deref(), expected);
    }

    #[test]
    fn the_first_broken_limit_is_named() {
        let spec = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "10Mi"}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "20Mi"}}}]});
        check(spec.clone(), (5, 5, 5), None);
        check(spec.clone(), (11, 0, 0), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". "));
        check(
            spec.clone(),
            (9, 9, 9),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. "),
        );
        let two = json!({"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "20Mi"}}},
            {"name": "free"}]});
        check(two, (0, 21, 99), Some("Container c exceeded its local ephemeral storage limit \"20Mi\". "));
        check(json!({"containers": [{"name": "c"}]}), (99, 99, 99), None);
    }
}
