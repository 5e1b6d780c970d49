//! NodeDeclaredFeatureValidator: a pod that runs is not changed into one that its node cannot run.

use async_trait::async_trait;
use machinery::status::StatusError;

use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{at, int, items, text, texts};

/// The step.
pub struct NodeDeclaredFeatures;

#[async_trait]
impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let (new, old) = (request.new_object(), request.old_object());
        let concerns = request.is_for("", "pods", "") || request.is_for("", "pods", "resize");
        let generation = |pod: &Object| int(pod, &["metadata", "generation"]);
        let node = text(new, &["spec", "nodeName"]);
        if request.operation != Operation::Update || !concerns || node.is_empty() {
            return Ok(());
        }
        let wanted = wanted(new, old);
        if wanted.is_empty() || generation(new) == generation(old) {
            return Ok(());
        }
        let quoted = machinery::gotext::quote(node);
        let found = request.ctx.cluster.find("", "nodes", "", node).await?;
        let found = found.ok_or_else(|| request.forbidden(format!("node {quoted} not found")))?;
        let missing: Vec<&str> = wanted
            .into_iter()
            .filter(|name| texts(&found, &["status", "declaredFeatures"]).all(|f| f != *name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.join(", ");
        Err(request.forbidden(format!(
            "pod update requires features {missing} which are not available on node {quoted}"
        )))
    }
}

/// The features that the node needs for this change, sorted.
fn wanted(new: &Object, old: &Object) -> Vec<&'static str> {
    let mut wanted = Vec::new();
    let resources = ["spec", "resources"];
    if at(new, &resources) != at(old, &resources) {
        wanted.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let list = ["spec", "initContainers"];
    let is_changed = |(before, after): (&Object, &Object)| {
        let is_sidecar = text(before, &["restartPolicy"]) == "Always";
        !is_sidecar && at(before, &["resources"]) != at(after, &["resources"])
    };
    if items(old, &list).iter().zip(items(new, &list)).any(is_changed) {
        wanted.push("InPlacePodVerticalScalingInitContainers");
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_and_what_they_need() {
        let check = |old: Object, new: Object, expected: &[&str]| {
            let pod = |spec: Object| json!({"spec": spec});
            assert_eq!(wanted(&pod(new), &pod(old)), expected);
        };
        let init = |policy: &str, cpu: &str| json!({"initContainers": [{"restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}]});
        check(json!({}), json!({"containers": [{"resources": {}}]}), &[]);
        check(init("Always", "1"), init("Always", "2"), &[]);
        check(init("", "1"), init("", "2"), &["InPlacePodVerticalScalingInitContainers"]);
        let level = json!({"resources": {"requests": {"cpu": "1"}}});
        check(json!({}), level, &["InPlacePodLevelResourcesVerticalScaling"]);
    }
}
