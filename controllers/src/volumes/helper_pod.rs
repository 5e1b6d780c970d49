//! Work on a node's disk, done by a pod: emptying or removing a directory. The pod's name is fixed by what it works
//! for, so a controller that dies finds it again and never runs two of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ObjectReference, PersistentVolumeSpec, Pod, PodSpec, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{annotation, is_terminating};
use crate::pods::phase;

/// On a helper pod: for which claim (by uid) of the volume it works. A volume may be recycled more than once.
const WORKS_FOR: &str = "quarterdeck.dev/works-for";
/// After so many seconds a helper pod that has not finished counts as failed.
const DEADLINE_SECS: i64 = 300;

/// What is to be done.
pub struct Task<'a> {
    /// Of the pod.
    pub namespace: &'a str,
    /// Of the pod.
    pub name: String,
    /// Of the program that does it.
    pub image: &'a str,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is mounted, and where.
    pub volume: Volume,
    /// Where it is mounted in the pod.
    pub mount_path: &'a str,
    /// Runs there; anywhere when absent.
    pub node: Option<String>,
    /// Which claim the work is for.
    pub works_for: &'a str,
}

/// How far the work has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is no pod yet.
    Absent,
    /// It runs, or is on its way out.
    Running,
    /// Done.
    Succeeded,
    /// Not done, and why.
    Failed(String),
    /// A pod from earlier work is in the way.
    Stale,
}

/// Looks at the pod of a task.
pub fn progress(pod: Option<&Pod>, works_for: &str) -> Progress {
    let Some(pod) = pod else { return Progress::Absent };
    if is_terminating(pod) {
        return Progress::Running;
    }
    if annotation(pod, WORKS_FOR) != Some(works_for) {
        return Progress::Stale;
    }
    let message = pod.status.as_ref().and_then(|status| status.message.clone());
    match phase(pod) {
        "Succeeded" => Progress::Succeeded,
        "Failed" => {
            Progress::Failed(message.unwrap_or_else(|| "pod failed, pod.Status.Message unknown".into()))
        }
        _ => Progress::Running,
    }
}

/// The pod of a task. It tolerates everything: the disk is where it is.
pub fn pod(task: Task) -> Pod {
    let container = Container {
        name: "helper".into(),
        image: Some(task.image.to_string()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(task.args),
        volume_mounts: Some(vec![VolumeMount {
            name: task.volume.name.clone(),
            mount_path: task.mount_path.to_string(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        volumes: Some(vec![task.volume]),
        restart_policy: Some("Never".into()),
        node_name: task.node,
        active_deadline_seconds: Some(DEADLINE_SECS),
        termination_grace_period_seconds: Some(0),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        tolerations: Some(vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }]),
        ..PodSpec::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(task.name),
            namespace: Some(task.namespace.to_string()),
            annotations: Some(BTreeMap::from([(WORKS_FOR.into(), task.works_for.to_string())])),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The node a volume is confined to by its affinity, if it is just one.
pub fn only_node(spec: &PersistentVolumeSpec) -> Option<&str> {
    let terms = &spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let hostname =
        term.match_expressions.iter().flatten().find(|wanted| wanted.key == "kubernetes.io/hostname");
    let wanted =
        hostname.or_else(|| term.match_fields.iter().flatten().find(|f| f.key == "metadata.name"))?;
    match (wanted.operator.as_str(), wanted.values.as_deref()) {
        ("In", Some([node])) => Some(node),
        _ => None,
    }
}

/// The uid of the claim a volume belonged to; what its helper pods work for.
pub fn claim_uid(reference: Option<&ObjectReference>) -> &str {
    reference.and_then(|reference| reference.uid.as_deref()).unwrap_or("")
}
