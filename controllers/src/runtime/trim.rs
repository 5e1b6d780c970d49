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
