//! Questions about a pod's spec that several rules ask. Reads only; a missing optional field answers with
//! the API's default.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus};
use sha2::{Digest, Sha256};

/// Annotation that names where a static pod came from (`file`, `http`, `api`).
pub const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Annotation that marks the API object standing for a static pod.
pub const CONFIG_MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Annotation that identifies one version of a static pod.
pub const CONFIG_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Grace when the spec gives none (the API's default), seconds.
const DEFAULT_GRACE_SECS: i64 = 30;
/// The longest grace that is given, seconds: ten years. The API takes any number; runtimes and clocks cannot count that far.
pub const GRACE_MAX_SECS: i64 = 10 * 365 * 24 * 3600;

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: keeps running beside the pod.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// Added to a running pod; never restarted.
    Ephemeral,
}

/// The pod's spec; an empty one where the object has none.
pub fn spec(pod: &Pod) -> Cow<'_, PodSpec> {
    pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed)
}

/// The API's current status; an empty one where the object has none.
pub fn status(pod: &Pod) -> Cow<'_, PodStatus> {
    pod.status.as_ref().map_or_else(|| Cow::Owned(PodStatus::default()), Cow::Borrowed)
}

/// `spec.containers`.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| s.containers.as_slice())
}

/// `spec.initContainers`, sidecars among them.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}

/// `spec.ephemeralContainers`.
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// An ephemeral container in the shape of the others: the two types share every field but the target.
pub fn ephemeral_as_container(ephemeral: &EphemeralContainer) -> Container {
    serde_json::to_value(ephemeral)
        .and_then(serde_json::from_value)
        .unwrap_or_else(|_| Container { name: ephemeral.name.clone(), ..Default::default() })
}

/// Finds a container of any kind by its name.
pub fn find_container(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    let init = init_containers(pod).iter().find(|c| c.name == name);
    if let Some(c) = init {
        return Some((if is_sidecar(c) { Kind::Sidecar } else { Kind::Init }, c.clone()));
    }
    if let Some(c) = containers(pod).iter().find(|c| c.name == name) {
        return Some((Kind::Regular, c.clone()));
    }
    let ephemeral = ephemeral_containers(pod).iter().find(|c| c.name == name)?;
    Some((Kind::Ephemeral, ephemeral_as_container(ephemeral)))
}

/// True for an init container that keeps running.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// True if the pod uses the machine's own network.
pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}

/// The pod's uid; empty where the object has none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace(uid)`, as upstream prints a pod in messages.
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// One annotation of the pod.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// True for a pod read from a file on this machine.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// True for the API object that mirrors a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR_ANNOTATION).is_some()
}

/// Seconds the pod's processes get between TERM and KILL when the spec decides.
pub fn termination_grace_secs(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    own.unwrap_or(DEFAULT_GRACE_SECS).min(GRACE_MAX_SECS)
}

/// The same for a pod that is deleted: who deleted it may have chosen another.
pub fn deletion_grace_secs(pod: &Pod) -> i64 {
    let chosen = pod.metadata.deletion_grace_period_seconds;
    chosen.map_or_else(|| termination_grace_secs(pod), |secs| secs.min(GRACE_MAX_SECS))
}

/// Identifies what of a container makes it another container when changed in place: name and image.
pub fn container_hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&hasher.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn finds_every_kind_of_container() {
        let pod = pod(serde_json::json!({"spec": {
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c", "image": "x"}],
        }}));
        let kinds: Vec<_> =
            ["i", "s", "c", "e", "none"].iter().map(|n| find_container(&pod, n).map(|f| f.0)).collect();
        let expected =
            vec![Some(Kind::Init), Some(Kind::Sidecar), Some(Kind::Regular), Some(Kind::Ephemeral), None];
        assert_eq!(kinds, expected);
        assert_eq!(find_container(&pod, "e").and_then(|f| f.1.image), Some("x".to_owned()));
    }

    #[test]
    fn every_grace_can_be_counted() {
        let check = |deletion: Option<i64>, own: Option<i64>, expected: (i64, i64)| {
            let pod = pod(serde_json::json!({"metadata": {"deletionGracePeriodSeconds": deletion},
                "spec": {"terminationGracePeriodSeconds": own, "containers": []}}));
            assert_eq!((deletion_grace_secs(&pod), termination_grace_secs(&pod)), expected);
        };
        check(None, None, (30, 30));
        check(Some(0), Some(7), (0, 7));
        check(None, Some(i64::MAX), (GRACE_MAX_SECS, GRACE_MAX_SECS));
        check(Some(i64::MAX), Some(1), (GRACE_MAX_SECS, 1));
    }

    #[test]
    fn the_hash_follows_name_and_image_only() {
        let base = Container { name: "a".into(), image: Some("i".into()), ..Default::default() };
        let args = Container { args: Some(vec!["x".into()]), ..base.clone() };
        let image = Container { image: Some("j".into()), ..base.clone() };
        assert_eq!(container_hash(&base), container_hash(&args));
        assert_ne!(container_hash(&base), container_hash(&image));
    }
}
