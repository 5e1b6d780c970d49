//! Labels, annotations and paths by which pods and containers are found again in the runtime and on disk.
//! The same as upstream's, so that tools (crictl, log collectors) and a kubelet of theirs recognise them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::kubelet::pod::spec;

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name in the spec.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: identifies the container's definition.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often a container of this name was restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its last words.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: whether the log's end stands in for missing last words.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace period, seconds, for containers whose pod is unknown.
pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a sandbox: the pod's own and those that identify it.
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let own = pod.metadata.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone()));
    let identity = [
        (POD_NAME.to_owned(), spec::name(pod).to_owned()),
        (POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned()),
        (POD_UID.to_owned(), spec::uid(pod).to_owned()),
    ];
    own.chain(identity).collect()
}

/// Labels of a container.
pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    HashMap::from([
        (POD_NAME.to_owned(), spec::name(pod).to_owned()),
        (POD_NAMESPACE.to_owned(), spec::namespace(pod).to_owned()),
        (POD_UID.to_owned(), spec::uid(pod).to_owned()),
        (CONTAINER_NAME.to_owned(), container.name.clone()),
    ])
}

/// Annotations of a container: all that must survive the agent's own restart.
pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let text = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
    HashMap::from([
        (CONTAINER_HASH.to_owned(), spec::container_hash(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (TERMINATION_PATH.to_owned(), text(&container.termination_message_path, "/dev/termination-log")),
        (TERMINATION_POLICY.to_owned(), text(&container.termination_message_policy, "File")),
        (POD_GRACE.to_owned(), spec::termination_grace_secs(pod).to_string()),
    ])
}

/// The folder of a pod's logs.
pub fn pod_log_dir(logs: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    logs.join(format!("{namespace}_{name}_{uid}"))
}

/// A container's log, relative to its pod's folder.
pub fn container_log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}
