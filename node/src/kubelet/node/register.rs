//! Registration: makes the Node object where there is none, and keeps the labels and annotations that are the
//! kubelet's in one that exists.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::facts::go_arch;
use crate::kubelet::config::Config;

/// Lets the attach/detach controller attach volumes for this node.
const ATTACH_ANNOTATION: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// The labels a node registers with.
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.hostname.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), go_arch().to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), go_arch().to_owned()),
    ]);
    labels.extend(config.node_labels.iter().cloned());
    labels
}

/// The Node object as it is first made.
pub fn new_node(config: &Config, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some([(ATTACH_ANNOTATION.to_owned(), "true".to_owned())].into()),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            taints: Some(config.taints.clone()).filter(|t| !t.is_empty()),
            unschedulable: config.unschedulable.then_some(true),
            provider_id: config.provider_id.clone(),
            ..Default::default()
        }),
        status: Some(status),
    }
}

/// The merge patch that brings an existing node's labels and annotations in order; `None` if they are.
pub fn reconcile(config: &Config, node: &Node) -> Option<Value> {
    let missing = |have: &Option<BTreeMap<String, String>>,
                   want: BTreeMap<String, String>|
     -> Map<String, Value> {
        let have = have.clone().unwrap_or_default();
        want.into_iter().filter(|(k, v)| have.get(k) != Some(v)).map(|(k, v)| (k, Value::String(v))).collect()
    };
    let labels = missing(&node.metadata.labels, labels(config));
    let annotations =
        missing(&node.metadata.annotations, [(ATTACH_ANNOTATION.to_owned(), "true".to_owned())].into());
    if labels.is_empty() && annotations.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"labels": labels, "annotations": annotations}}))
}

/// Registers the node; its object as the API has it.
pub async fn register(client: &Client, config: &Config, status: NodeStatus) -> Result<Node, kube::Error> {
    let api = Api::<Node>::all(client.clone());
    let found = match api.get_opt(&config.node_name).await? {
        Some(found) => found,
        None if !config.register_node => {
            return Err(kube::Error::Service(
                format!("node \"{}\" not found and registration is switched off", config.node_name).into(),
            ));
        }
        None => match api.create(&PostParams::default(), &new_node(config, status)).await {
            Ok(made) => return Ok(made),
            Err(kube::Error::Api(error)) if error.code == 409 => api.get(&config.node_name).await?,
            Err(error) => return Err(error),
        },
    };
    match reconcile(config, &found) {
        Some(patch) => api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await,
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_patched() {
        let mut config = Config::new("n1", vec![]);
        config.node_labels = vec![("zone".into(), "a".into())];
        let mut node = new_node(&config, NodeStatus::default());
        assert_eq!(reconcile(&config, &node), None);
        node.metadata.labels =
            Some([("zone".to_owned(), "b".to_owned()), ("own".to_owned(), "x".to_owned())].into());
        let patch = reconcile(&config, &node).expect("a patch");
        assert_eq!(patch["metadata"]["labels"]["zone"], "a");
        assert_eq!(patch["metadata"]["labels"]["own"], Value::Null);
    }
}
