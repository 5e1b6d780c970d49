//! Defaults taken from classes in the cluster: DefaultStorageClass, DefaultIngressClass, RuntimeClass.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::Value;

use super::plugin::Plugin;
use crate::contract::{Admission, ClusterReader, Object};
use crate::kinds::json::{at, entries, has, is_set, items, push, same, set, text};

const DEFAULT_STORAGE: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const DEFAULT_INGRESS: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
const STORAGE_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The step that gives claims their storage class.
pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let claim = request.new_object();
        let asked = is_set(claim, &["metadata", "annotations", STORAGE_ANNOTATION])
            || is_set(claim, &["spec", "storageClassName"]);
        if !request.is_for("", "persistentvolumeclaims", "") || !request.creates() || asked {
            return Ok(());
        }
        let class =
            default_of(request.ctx.cluster.as_ref(), "storage.k8s.io", "storageclasses", &DEFAULT_STORAGE)
                .await?;
        if let (Some(class), Some(claim)) = (class, request.object.as_deref_mut()) {
            set(claim, &["spec", "storageClassName"], class);
        }
        Ok(())
    }
}

/// The step that gives ingresses their class.
pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let ingress = request.new_object();
        let asked = is_set(ingress, &["metadata", "annotations", INGRESS_ANNOTATION])
            || is_set(ingress, &["spec", "ingressClassName"]);
        if !request.is_for("networking.k8s.io", "ingresses", "") || !request.creates() || asked {
            return Ok(());
        }
        let cluster = request.ctx.cluster.as_ref();
        let class = default_of(cluster, "networking.k8s.io", "ingressclasses", &DEFAULT_INGRESS).await?;
        if let (Some(class), Some(ingress)) = (class, request.object.as_deref_mut()) {
            set(ingress, &["spec", "ingressClassName"], class);
        }
        Ok(())
    }
}

/// The newest class marked as default, by name among equals.
async fn default_of(
    cluster: &dyn ClusterReader,
    group: &str,
    resource: &str,
    marks: &[&str],
) -> Result<Option<String>, StatusError> {
    let classes = cluster.list(group, resource, "").await?;
    let marked = |class: &&Arc<Object>| {
        marks.iter().any(|mark| text(class, &["metadata", "annotations", mark]) == "true")
    };
    let name = |class: &Arc<Object>| text(class, &["metadata", "name"]).to_owned();
    let made = |class: &Arc<Object>| text(class, &["metadata", "creationTimestamp"]).to_owned();
    let newest =
        classes.iter().filter(marked).max_by(|a, b| made(a).cmp(&made(b)).then(name(b).cmp(&name(a))));
    Ok(newest.map(name))
}

/// The step that applies a pod's runtime class.
pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        if !request.is_for("", "pods", "") || !request.creates() {
            return Ok(());
        }
        let Some(class) = runtime_class(request).await? else { return Ok(()) };
        let refusal = match request.object.as_deref_mut() {
            Some(pod) => apply_class(pod, &class).err(),
            None => None,
        };
        refusal.map_or(Ok(()), |why| Err(request.forbidden(why)))
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        if !request.is_for("", "pods", "") || !request.creates() {
            return Ok(());
        }
        let class = runtime_class(request).await?;
        let fixed = class
            .as_deref()
            .map(|class| at(class, &["overhead", "podFixed"]))
            .filter(|fixed| !fixed.is_null());
        let own = at(request.new_object(), &["spec", "overhead"]);
        match fixed {
            Some(fixed) if !same(fixed, own) => Err(request
                .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")),
            None if !own.is_null() => Err(request.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

async fn runtime_class(request: &Admission<'_>) -> Result<Option<Arc<Object>>, StatusError> {
    let name = text(request.new_object(), &["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let class = request.ctx.cluster.find("node.k8s.io", "runtimeclasses", "", name).await?;
    let missing = || {
        request.forbidden(format!("pod rejected: RuntimeClass {} not found", machinery::gotext::quote(name)))
    };
    class.ok_or_else(missing).map(Some)
}

fn apply_class(pod: &mut Object, class: &Object) -> Result<(), String> {
    let fixed = at(class, &["overhead", "podFixed"]);
    if !fixed.is_null() {
        if has(pod, &["spec", "overhead"]) && !same(fixed, at(pod, &["spec", "overhead"])) {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
            );
        }
        set(pod, &["spec", "overhead"], fixed.clone());
    }
    for (key, value) in entries(class, &["scheduling", "nodeSelector"]) {
        let own = text(pod, &["spec", "nodeSelector", key]);
        let wanted = value.as_str().unwrap_or_default();
        if !own.is_empty() && own != wanted {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        set(pod, &["spec", "nodeSelector", key], value.clone());
    }
    for toleration in items(class, &["scheduling", "tolerations"]) {
        let known = items(pod, &["spec", "tolerations"]).iter().any(|own: &Value| same(own, toleration));
        if !known {
            push(pod, &["spec", "tolerations"], toleration.clone());
        }
    }
    Ok(())
}
