//! PodTopologyLabels and PodResizeValidator: what a pod learns from, and may ask of, its node.

use async_trait::async_trait;
use machinery::status::{Cause, StatusError};

use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::checks::quantity;
use crate::kinds::json::{at, set, text};
use crate::kinds::pod::resources::pod_amounts;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The step that copies zone and region of the node.
pub struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let object = request.new_object();
        let node = if !request.creates() {
            return Ok(());
        } else if request.is_for("", "pods", "") {
            text(object, &["spec", "nodeName"])
        } else if request.is_for("", "pods", "binding") && text(object, &["target", "kind"]) == "Node" {
            text(object, &["target", "name"])
        } else {
            return Ok(());
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = request.ctx.cluster.get("", "nodes", "", node).await else { return Ok(()) };
        if let Some(object) = request.object.as_deref_mut() {
            for label in LABELS {
                let value = at(&node, &["metadata", "labels", label]);
                if !value.is_null() {
                    set(object, &["metadata", "labels", label], value.clone());
                }
            }
        }
        Ok(())
    }
}

/// The step that refuses resizes a node can never satisfy.
pub struct PodResizeValidator;

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let pod = request.new_object();
        let name = text(pod, &["spec", "nodeName"]);
        let updates = request.operation == Operation::Update;
        if !request.is_for("", "pods", "resize") || !updates || name.is_empty() {
            return Ok(());
        }
        let quoted = machinery::gotext::quote(name);
        let node = request.ctx.cluster.get("", "nodes", "", name).await;
        let node = node.ok_or_else(|| request.forbidden(format!("node {quoted} not found")))?;
        let os = text(&node, &["metadata", "labels", "kubernetes.io/os"]);
        if !matches!(os, "" | "linux") {
            let os = machinery::gotext::quote(os);
            let why = format!("pod resize is only supported on linux nodes, node {quoted} is {os}");
            return Err(refusal(request, &why, "UnsupportedPlatform"));
        }
        match over_capacity(pod, &node) {
            Some(why) => Err(refusal(request, &why, "NodeCapacity")),
            None => Ok(()),
        }
    }
}

fn refusal(request: &Admission<'_>, why: &str, reason: &str) -> StatusError {
    let cause = Cause { reason: reason.to_owned(), message: why.to_owned(), field: String::new() };
    request.forbidden(why).with_cause(cause)
}

fn over_capacity(pod: &Object, node: &Object) -> Option<String> {
    let asked = pod_amounts(pod, "requests");
    for name in ["cpu", "memory"] {
        let Some(asked) = asked.get(name) else { continue };
        let allocatable = quantity(at(node, &["status", "allocatable", name])).unwrap_or_default();
        if *asked > allocatable {
            return Some(format!(
                "Node didn't have enough allocatable resources: {name}, requested: {asked}, allocatable: {allocatable}"
            ));
        }
    }
    None
}
