//! What caches do not keep. Controllers read these objects and write them back with patches or whole updates, so
//! little is dropped: `managedFields` (the API server keeps its own when an update has none), of pods the parts that
//! no controller reads, and the contents of config maps and secrets that are not the controllers' own business.
//! Pods, config maps and secrets are therefore never written back whole unless their content is kept here.

use std::any::Any;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use super::store::Object;

/// Drops what no controller reads.
pub fn trim<K: Object>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(pod) = (object as &mut dyn Any).downcast_mut::<Pod>() {
        trim_pod(pod);
    }
    if let Some(map) = (object as &mut dyn Any).downcast_mut::<ConfigMap>() {
        let ours =
            map.metadata.name.as_deref() == Some("kube-root-ca.crt") || is_system(&map.metadata.namespace);
        if !ours {
            map.data = None;
            map.binary_data = None;
        }
    }
    if let Some(secret) = (object as &mut dyn Any).downcast_mut::<Secret>() {
        let token = secret.type_.as_deref() == Some("kubernetes.io/service-account-token");
        if !token && !is_system(&secret.metadata.namespace) {
            secret.data = None;
        }
    }
}

fn is_system(namespace: &Option<String>) -> bool {
    matches!(namespace.as_deref(), Some("kube-system" | "kube-public"))
}

fn trim_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(trim_container);
    spec.ephemeral_containers = None;
    // The largest part of most pods: the token's projection. Controllers look at volumes with claims and secrets alone.
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| {
            volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() || volume.secret.is_some()
        });
        volumes.shrink_to_fit();
    }
}

fn trim_container(container: &mut Container) {
    *container = Container {
        name: std::mem::take(&mut container.name),
        ports: container.ports.take(),
        resources: container.resources.take(),
        restart_policy: container.restart_policy.take(),
        restart_policy_rules: container.restart_policy_rules.take(),
        ..Container::default()
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_stays_what_controllers_read() {
        let whole = json!({
            "metadata": {"name": "p", "managedFields": [{"manager": "m"}], "labels": {"a": "b"}},
            "spec": {
                "nodeName": "n",
                "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "v"}],
                    "ports": [{"containerPort": 80}], "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
                "volumes": [{"name": "t", "projected": {"sources": []}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
            },
        });
        let mut pod: Pod = serde_json::from_value(whole).expect("a pod");
        trim(&mut pod);
        let kept = serde_json::to_value(&pod).expect("JSON");
        assert_eq!(
            kept,
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
                "spec": {
                    "nodeName": "n",
                    "containers": [{"name": "c", "ports": [{"containerPort": 80}]}],
                    "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "d"}}, {"name": "e", "ephemeral": {}}],
                },
            })
        );
    }
}
