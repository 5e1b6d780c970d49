//! PodTopologyLabels and PodResizeValidator: what a pod learns from, and may ask of, its node.

use async_trait::async_trait;
use machinery::quantity::Quantity;
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
        let Some(node) = request.ctx.cluster.find("", "nodes", "", node).await? else { return Ok(()) };
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
        let node = request.ctx.cluster.find("", "nodes", "", name).await?;
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

/// A resource's name, and how many of its smallest units a quantity is.
type Counted = (&'static str, fn(Quantity) -> i64);

/// What the node does not have of it, in upstream's words, which its tests look for.
fn over_capacity(pod: &Object, node: &Object) -> Option<String> {
    let requests = pod_amounts(pod, "requests");
    let short = |(name, count): Counted| {
        let asked = *requests.get(name)?;
        let allocatable = quantity(at(node, &["status", "allocatable", name])).unwrap_or_default();
        let over = asked > allocatable;
        over.then(|| format!("{name}, requested: {}, allocatable: {}", count(asked), count(allocatable)))
    };
    let resources: [Counted; 2] = [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    let short: Vec<String> = resources.into_iter().filter_map(short).collect();
    let said = || format!("node didn't have enough allocatable resources: {}", short.join("; "));
    (!short.is_empty()).then(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_node_lacks_is_said_in_its_smallest_units() {
        let pod = |cpu: &str, memory: &str| {
            let resources = json!({"requests": {"cpu": cpu, "memory": memory}});
            json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
        };
        let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Ki"}}});
        let check = |cpu, memory, expected: Option<&str>| {
            let expected =
                expected.map(|lack| format!("node didn't have enough allocatable resources: {lack}"));
            assert_eq!(over_capacity(&pod(cpu, memory), &node), expected);
        };
        check("2", "1Ki", None);
        check("2500m", "1", Some("cpu, requested: 2500, allocatable: 2000"));
        check(
            "3",
            "2Ki",
            Some("cpu, requested: 3000, allocatable: 2000; memory, requested: 2048, allocatable: 1024"),
        );
    }
}
