//! LimitRanger: defaults and bounds that a namespace sets for containers, pods and claims.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::quantity::Quantity;
use machinery::status::StatusError;
use machinery::status::field::aggregate_texts;
use serde_json::Value;

use super::live::LiveLists;
use super::plugin::Plugin;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{at, entries, is_set, items, items_mut, set, set_if_null, text};
use crate::kinds::pod::resources::{Amounts, amounts, effective};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The step.
pub struct LimitRanger {
    ranges: LiveLists,
}

impl Default for LimitRanger {
    fn default() -> Self {
        Self { ranges: LiveLists::of("limitranges") }
    }
}

impl LimitRanger {
    async fn ranges(&self, request: &Admission<'_>) -> Result<Vec<Arc<Object>>, StatusError> {
        self.ranges.list(request.ctx.cluster.as_ref(), &request.ctx.info.namespace).await
    }
}

/// Pods and claims on creation, and what resizes a pod.
fn concerns(request: &Admission<'_>) -> bool {
    let going = is_set(request.old_object(), &["metadata", "deletionTimestamp"]);
    let created = request.creates()
        && (request.is_for("", "pods", "") || request.is_for("", "persistentvolumeclaims", ""));
    let updated = request.operation == Operation::Update
        && (request.is_for("", "pods", "resize") || request.is_for("", "persistentvolumeclaims", ""));
    (created || updated) && !going
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        if request.ctx.info.resource != "pods" || !concerns(request) {
            return Ok(());
        }
        let ranges = self.ranges(request).await?;
        if let Some(pod) = request.object.as_deref_mut() {
            ranges.iter().for_each(|range| fill(pod, range));
        }
        Ok(())
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        if !concerns(request) {
            return Ok(());
        }
        for range in self.ranges(request).await? {
            let broken = if request.ctx.info.resource == "pods" {
                broken_by_pod(request.new_object(), &range)
            } else {
                broken_by_claim(request.new_object(), &range)
            };
            if let Some(why) = aggregate_texts(broken) {
                return Err(request.forbidden(why));
            }
        }
        Ok(())
    }
}

fn limits_of<'a>(range: &'a Object, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    items(range, &["spec", "limits"]).iter().filter(move |limit| text(limit, &["type"]) == kind)
}

/// Gives containers what the range sets as default, and notes it in an annotation.
fn fill(pod: &mut Object, range: &Object) {
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in items_mut(pod, &["spec", list]) {
            let name = text(container, &["name"]).to_owned();
            for (part, default, noun) in
                [("requests", "defaultRequest", "request"), ("limits", "default", "limit")]
            {
                let mut given: Vec<&str> = Vec::new();
                for (resource, amount) in
                    limits_of(range, "Container").flat_map(|limit| entries(limit, &[default]))
                {
                    if !is_set(container, &["resources", part, resource]) {
                        given.push(resource);
                        set_if_null(container, &["resources", part, resource], amount.clone());
                    }
                }
                if !given.is_empty() {
                    given.sort_unstable();
                    notes.push(format!("{} {noun} for {word} {name}", given.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        set(pod, &["metadata", "annotations", ANNOTATION], note);
    }
}

fn broken_by_pod(pod: &Object, range: &Object) -> Vec<String> {
    let mut broken = Vec::new();
    for limit in items(range, &["spec", "limits"]) {
        match text(limit, &["type"]) {
            "Container" => {
                let lists = ["containers", "initContainers"].map(|list| items(pod, &["spec", list]));
                for container in lists.into_iter().flatten() {
                    let [requests, limits] =
                        ["requests", "limits"].map(|part| amounts(at(container, &["resources", part])));
                    bounds("Container", limit, &requests, &limits, &mut broken);
                }
            }
            "Pod" => {
                let [requests, limits] =
                    ["requests", "limits"].map(|part| effective(at(pod, &["spec"]), part));
                bounds("Pod", limit, &requests, &limits, &mut broken);
            }
            _ => {}
        }
    }
    broken
}

fn broken_by_claim(claim: &Object, range: &Object) -> Vec<String> {
    let requests = amounts(at(claim, &["spec", "resources", "requests"]));
    let mut broken = Vec::new();
    for limit in limits_of(range, "PersistentVolumeClaim") {
        for (resource, bound) in amounts(at(limit, &["min"])) {
            broken.extend(below("PersistentVolumeClaim", &resource, bound, &requests, &Amounts::new()));
        }
        for (resource, bound) in amounts(at(limit, &["max"])) {
            let whole = format!("maximum {resource} usage per PersistentVolumeClaim is {bound}");
            broken.extend(match requests.get(&resource) {
                None => Some(format!("{whole}.  No request is specified")),
                Some(request) if *request > bound => Some(format!("{whole}, but request is {request}")),
                Some(_) => None,
            });
        }
    }
    broken
}

fn bounds(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, broken: &mut Vec<String>) {
    for (resource, bound) in amounts(at(limit, &["min"])) {
        broken.extend(below(kind, &resource, bound, requests, limits));
    }
    for (resource, bound) in amounts(at(limit, &["max"])) {
        broken.extend(above(kind, &resource, bound, requests, limits));
    }
    for (resource, bound) in amounts(at(limit, &["maxLimitRequestRatio"])) {
        broken.extend(ratio(kind, &resource, bound, requests, limits));
    }
}

fn below(
    kind: &str,
    resource: &str,
    bound: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let whole = format!("minimum {resource} usage per {kind} is {bound}");
    let Some(request) = requests.get(resource) else {
        return Some(format!("{whole}.  No request is specified"));
    };
    if *request < bound {
        return Some(format!("{whole}, but request is {request}"));
    }
    let limit = limits.get(resource).filter(|limit| **limit < bound)?;
    Some(format!("{whole}, but limit is {limit}"))
}

fn above(
    kind: &str,
    resource: &str,
    bound: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let whole = format!("maximum {resource} usage per {kind} is {bound}");
    let Some(limit) = limits.get(resource) else {
        return Some(format!("{whole}.  No limit is specified"));
    };
    if *limit > bound {
        return Some(format!("{whole}, but limit is {limit}"));
    }
    let request = requests.get(resource).filter(|request| **request > bound)?;
    Some(format!("{whole}, but request is {request}"))
}

fn ratio(
    kind: &str,
    resource: &str,
    bound: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let whole = format!("{resource} max limit to request ratio per {kind} is {bound}");
    let Some(request) = requests.get(resource).filter(|request| !request.is_zero()) else {
        return Some(format!("{whole}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(resource).filter(|limit| !limit.is_zero()) else {
        return Some(format!("{whole}, but no limit is specified or limit is 0"));
    };
    let provided = limit.as_f64() / request.as_f64();
    (provided > bound.as_f64()).then(|| format!("{whole}, but provided ratio is {provided:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(limit: Value) -> Object {
        json!({"spec": {"limits": [limit]}})
    }

    #[test]
    fn defaults() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}});
        let limits = json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "1m"}});
        fill(&mut pod, &range(limits));
        let resources = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}});
        assert_eq!(at(&pod, &["spec", "containers"])[0]["resources"], resources);
        assert_eq!(
            text(&pod, &["metadata", "annotations", ANNOTATION]),
            "LimitRanger plugin set: cpu request for container a; memory limit for container a"
        );
    }

    #[test]
    fn bounds_of_containers_and_pods() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let check = |limit: Value, resources: Value, expected: &[&str]| {
            assert_eq!(broken_by_pod(&pod(resources), &range(limit)), expected);
        };
        let container = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}});
        check(container.clone(), json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}}), &[]);
        check(
            container.clone(),
            json!({}),
            &[
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum cpu usage per Container is 1.  No limit is specified",
            ],
        );
        check(
            container,
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}}),
            &[
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2",
            ],
        );
        let pod_ratio = json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}});
        check(
            pod_ratio,
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
            &["cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"],
        );
    }
}
