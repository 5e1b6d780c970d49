//! NodeRestriction: a node writes only its own objects, and only what a node has to write.

use async_trait::async_trait;
use machinery::status::StatusError;
use serde_json::Value;

use super::certificates;
use super::plugin::Plugin;
use crate::authz::node::node_of;
use crate::authz::node_graph::claim_of;
use crate::contract::{Admission, Object, Operation};
use crate::kinds::json::{at, entries, flag, has, is_set, items, remove, same, text, texts};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels below this domain are for people to restrict nodes with.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";
/// Labels of our own domains that a kubelet may set, and prefixes of such.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/exclude-disruption",
];
const KUBELET_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The step.
pub struct NodeRestriction;

type Verdict = Result<(), StatusError>;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Verdict {
        let Some(node) = node_of(&request.ctx.user) else { return Ok(()) };
        if node.is_empty() {
            let user = machinery::gotext::quote(&request.ctx.user.name);
            return Err(request.forbidden(format!("could not determine node from user {user}")));
        }
        let info = &request.ctx.info;
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", "pods", "") => pod(request, node).await,
            ("", "pods", "status") => pod_status(request, node),
            ("", "pods", "eviction") => eviction(request, node).await,
            ("", "pods", other) => Err(request.forbidden(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                quote(other)
            ))),
            ("", "nodes", _) => own_node(request, node),
            ("", "persistentvolumeclaims", "status") => claim_status(request, node),
            ("", "persistentvolumeclaims", _) => Err(request.forbidden("may only update PVC status")),
            ("", "serviceaccounts", "token") => token(request, node).await,
            ("coordination.k8s.io", "leases", _) => lease(request, node),
            ("storage.k8s.io", "csinodes", _) => same_name(request, node, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => slice(request, node),
            ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(request, node),
            _ => Ok(()),
        }
    }
}

fn quote(text: &str) -> String {
    machinery::gotext::quote(text)
}

async fn pod(request: &Admission<'_>, node: &str) -> Verdict {
    let quoted = quote(node);
    match request.operation {
        Operation::Create => mirror_pod(request, node).await,
        Operation::Delete => {
            let info = &request.ctx.info;
            let stored = request.ctx.cluster.find("", "pods", &info.namespace, &info.name).await?;
            let stored = stored.ok_or_else(|| StatusError::not_found("", "pods", &info.name))?;
            if text(&stored, &["spec", "nodeName"]) != node {
                let why = format!("node {quoted} can only delete pods with spec.nodeName set to itself");
                return Err(request.forbidden(why));
            }
            Ok(())
        }
        other => {
            let operation = quote(&format!("{other:?}").to_uppercase());
            let why = format!(
                "unexpected operation {operation}, node {quoted} can only create and delete mirror pods"
            );
            Err(request.forbidden(why))
        }
    }
}

async fn mirror_pod(request: &Admission<'_>, node: &str) -> Verdict {
    let pod = request.new_object();
    let quoted = quote(node);
    let refuse = |why: String| Err(request.forbidden(why));
    if !is_set(pod, &["metadata", "annotations", MIRROR_ANNOTATION]) {
        return refuse(format!(
            "pod does not have {} annotation, node {quoted} can only create mirror pods",
            quote(MIRROR_ANNOTATION)
        ));
    }
    if text(pod, &["spec", "nodeName"]) != node {
        return refuse(format!("node {quoted} can only create pods with spec.nodeName set to itself"));
    }
    let owners = items(pod, &["metadata", "ownerReferences"]);
    let [owner] = owners else {
        let amount = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
        return refuse(format!("node {quoted} can only create pods with {amount} set to itself"));
    };
    let of = |field: &str| text(owner, &[field]);
    if of("apiVersion") != "v1" || of("kind") != "Node" || of("name") != node {
        return refuse(format!("node {quoted} can only create pods with an owner reference set to itself"));
    }
    if flag(owner, &["controller"]) != Some(true) {
        return refuse(format!(
            "node {quoted} can only create pods with a controller owner reference set to itself"
        ));
    }
    if flag(owner, &["blockOwnerDeletion"]) == Some(true) {
        return refuse(format!("node {quoted} must not set blockOwnerDeletion on an owner reference"));
    }
    let stored = request.ctx.cluster.find("", "nodes", "", node).await?;
    let stored = stored.ok_or_else(|| StatusError::not_found("", "nodes", node))?;
    let uid = text(&stored, &["metadata", "uid"]);
    if of("uid") != uid {
        return refuse(format!("node {node} UID mismatch: expected {} got {uid}", of("uid")));
    }
    match referenced(pod) {
        Some(resource) => refuse(format!("node {quoted} can not create pods that reference {resource}")),
        None => Ok(()),
    }
}

/// The kind of API object a pod refers to, if any.
fn referenced(pod: &Object) -> Option<&'static str> {
    let volumes = items(pod, &["spec", "volumes"]);
    let containers = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    let envs = || containers.clone().flat_map(|list| items(pod, &["spec", list]));
    let env_refers = |whole: &str, key: &str| {
        envs().any(|container| {
            items(container, &["envFrom"]).iter().any(|env| is_set(env, &[whole]))
                || items(container, &["env"]).iter().any(|env| is_set(env, &["valueFrom", key]))
        })
    };
    let volume_has = |source: &str| volumes.iter().any(|volume| is_set(volume, &[source]));
    let projects = |source: &str| {
        volumes
            .iter()
            .flat_map(|v| items(v, &["projected", "sources"]))
            .any(|projected| is_set(projected, &[source]))
    };
    if has(pod, &["spec", "serviceAccountName"]) {
        Some("serviceaccounts")
    } else if has(pod, &["spec", "imagePullSecrets"])
        || volume_has("secret")
        || projects("secret")
        || env_refers("secretRef", "secretKeyRef")
    {
        Some("secrets")
    } else if volume_has("configMap")
        || projects("configMap")
        || env_refers("configMapRef", "configMapKeyRef")
    {
        Some("configmaps")
    } else if volumes.iter().any(|volume| claim_of(pod, volume).is_some()) {
        Some("persistentvolumeclaims")
    } else if projects("clusterTrustBundle") {
        Some("clustertrustbundles")
    } else if has(pod, &["spec", "resourceClaims"]) {
        Some("resourceclaims")
    } else {
        None
    }
}

fn pod_status(request: &Admission<'_>, node: &str) -> Verdict {
    let quoted = quote(node);
    let (new, old) = (request.new_object(), request.old_object());
    let why = if request.operation != Operation::Update {
        format!("unexpected operation {}", quote(&format!("{:?}", request.operation).to_uppercase()))
    } else if text(old, &["spec", "nodeName"]) != node {
        format!("node {quoted} can only update pod status for pods with spec.nodeName set to itself")
    } else if !same(at(new, &["metadata", "labels"]), at(old, &["metadata", "labels"])) {
        format!("node {quoted} cannot update labels through pod status")
    } else if !same(
        at(new, &["status", "resourceClaimStatuses"]),
        at(old, &["status", "resourceClaimStatuses"]),
    ) {
        format!("node {quoted} cannot update resource claim statues")
    } else {
        return Ok(());
    };
    Err(request.forbidden(why))
}

async fn eviction(request: &Admission<'_>, node: &str) -> Verdict {
    let info = &request.ctx.info;
    let stored = request.ctx.cluster.find("", "pods", &info.namespace, &info.name).await?;
    let stored = stored.ok_or_else(|| StatusError::not_found("", "pods", &info.name))?;
    if text(&stored, &["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(request.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

fn own_node(request: &Admission<'_>, node: &str) -> Verdict {
    let (new, old) = (request.new_object(), request.old_object());
    let quoted = quote(node);
    let asked = match request.ctx.info.name.as_str() {
        "" => text(new, &["metadata", "name"]),
        name => name,
    };
    if asked != node {
        return Err(
            request.forbidden(format!("node {quoted} is not allowed to modify node {}", quote(asked)))
        );
    }
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let changed = |path: &[&str]| !same(at(new, path), at(old, path));
    let updates = request.operation == Operation::Update;
    if updates && changed(&["spec", "taints"]) {
        return Err(request.forbidden(format!("node {quoted} is not allowed to modify taints")));
    }
    if updates && changed(&["metadata", "ownerReferences"]) {
        return Err(request.forbidden(format!("node {quoted} is not allowed to modify ownerReferences")));
    }
    let forbidden = forbidden_labels(at(new, &["metadata", "labels"]), at(old, &["metadata", "labels"]));
    if forbidden.is_empty() {
        return Ok(());
    }
    let list = forbidden.join(", ");
    Err(request.forbidden(if updates {
        format!("is not allowed to modify labels: {list}")
    } else {
        format!("node {quoted} is not allowed to set the following labels: {list}")
    }))
}

/// The labels that differ and are not a kubelet's to set, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    let keys = entries(new, &[]).chain(entries(old, &[])).map(|(key, _)| key);
    let mut modified: Vec<&str> = keys.filter(|key| new.get(*key) != old.get(*key)).collect();
    modified.sort_unstable();
    modified.dedup();
    modified.into_iter().filter(|key| is_forbidden(key)).map(str::to_owned).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if below(RESTRICTED_DOMAIN) {
        return true;
    }
    let kubelet = KUBELET_LABELS.contains(&label) || KUBELET_LABEL_DOMAINS.iter().any(|domain| below(domain));
    (below("kubernetes.io") || below("k8s.io")) && !kubelet
}

fn claim_status(request: &Admission<'_>, node: &str) -> Verdict {
    let strip = |claim: &Object| {
        let mut claim = claim.clone();
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            remove(&mut claim, &["status", field]);
        }
        remove(&mut claim, &["metadata", "resourceVersion"]);
        remove(&mut claim, &["metadata", "managedFields"]);
        claim
    };
    if request.operation == Operation::Update
        && same(&strip(request.new_object()), &strip(request.old_object()))
    {
        return Ok(());
    }
    Err(request.forbidden(format!(
        "node {} is not allowed to update fields other than status.quantity and status.conditions",
        quote(node)
    )))
}

async fn token(request: &Admission<'_>, node: &str) -> Verdict {
    if !request.creates() {
        return Ok(());
    }
    let bound = at(request.new_object(), &["spec", "boundObjectRef"]);
    let of = |field: &str| text(bound, &[field]);
    if of("apiVersion") != "v1" || of("kind") != "Pod" || of("name").is_empty() {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    if of("uid").is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = request.ctx.cluster.find("", "pods", &request.ctx.info.namespace, of("name")).await?;
    let pod = pod.ok_or_else(|| StatusError::not_found("", "pods", of("name")))?;
    let (uid, own) = (of("uid"), text(&pod, &["metadata", "uid"]));
    if uid != own {
        return Err(request.forbidden(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if text(&pod, &["spec", "nodeName"]) != node {
        return Err(request.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    audience(request, &pod).await
}

/// A node may only ask for the audiences its pods mount tokens for.
async fn audience(request: &Admission<'_>, pod: &Object) -> Verdict {
    let audiences: Vec<&str> = texts(request.new_object(), &["spec", "audiences"]).collect();
    let audience = match audiences.as_slice() {
        [] => "",
        [one] => one,
        _ => return Err(request.forbidden("node may only request 0 or 1 audiences")),
    };
    for volume in items(pod, &["spec", "volumes"]) {
        let mounted = items(volume, &["projected", "sources"])
            .iter()
            .filter(|source| is_set(source, &["serviceAccountToken"]))
            .any(|source| text(source, &["serviceAccountToken", "audience"]) == audience);
        if mounted || driver_asks(request, pod, volume, audience).await {
            return Ok(());
        }
    }
    let user = &request.ctx.user.name;
    Err(request.forbidden(format!(
        "audience {} not found in pod spec volume, {user} is not authorized to request tokens for this audience",
        quote(audience)
    )))
}

async fn driver_asks(request: &Admission<'_>, pod: &Object, volume: &Value, audience: &str) -> bool {
    let cluster = &request.ctx.cluster;
    let mut driver = text(volume, &["csi", "driver"]).to_owned();
    if let Some(claim) = claim_of(pod, volume) {
        let claim = cluster.get("", "persistentvolumeclaims", &request.ctx.info.namespace, &claim).await;
        let name = claim.map(|claim| text(&claim, &["spec", "volumeName"]).to_owned()).unwrap_or_default();
        let stored = cluster.get("", "persistentvolumes", "", &name).await;
        driver =
            stored.map(|stored| text(&stored, &["spec", "csi", "driver"]).to_owned()).unwrap_or_default();
    }
    let Some(driver) = cluster.get("storage.k8s.io", "csidrivers", "", &driver).await else { return false };
    items(&driver, &["spec", "tokenRequests"]).iter().any(|asked| text(asked, &["audience"]) == audience)
}

fn lease(request: &Admission<'_>, node: &str) -> Verdict {
    if request.ctx.info.namespace != LEASE_NAMESPACE {
        let why = format!("can only access leases in the {} system namespace", quote(LEASE_NAMESPACE));
        return Err(request.forbidden(why));
    }
    let asked = match request.operation {
        Operation::Create => text(request.new_object(), &["metadata", "name"]),
        _ => request.ctx.info.name.as_str(),
    };
    if asked == node {
        return Ok(());
    }
    Err(request.forbidden("can only access node lease with the same name as the requesting node"))
}

fn same_name(request: &Admission<'_>, node: &str, kind: &str) -> Verdict {
    let asked = match request.operation {
        Operation::Create => text(request.new_object(), &["metadata", "name"]),
        _ => request.ctx.info.name.as_str(),
    };
    if asked == node {
        return Ok(());
    }
    Err(request.forbidden(format!("can only access {kind} with the same name as the requesting node")))
}

fn slice(request: &Admission<'_>, node: &str) -> Verdict {
    let (slice, verb) = match request.operation {
        Operation::Create => (request.new_object(), "create"),
        Operation::Delete => (request.old_object(), "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if text(slice, &["spec", "nodeName"]) == node {
        return Ok(());
    }
    Err(request
        .forbidden(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

fn signing_request(request: &Admission<'_>, node: &str) -> Verdict {
    let signer = text(request.new_object(), &["spec", "signerName"]);
    let for_kubelets =
        matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet");
    if !request.creates() || !for_kubelets {
        return Ok(());
    }
    let subject = certificates::subject(request.new_object())
        .map_err(|why| request.forbidden(format!("unable to parse csr: {why}")))?;
    if subject.common_name == format!("system:node:{node}") {
        return Ok(());
    }
    Err(request.forbidden(format!("can only create a node CSR with CN=system:node:{node}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels() {
        let check =
            |new: Value, old: Value, expected: &[&str]| assert_eq!(forbidden_labels(&new, &old), expected);
        check(json!({"kubernetes.io/hostname": "a", "mine": "x"}), json!({}), &[]);
        check(
            json!({"node-role.kubernetes.io/master": "", "node-restriction.kubernetes.io/a": "b"}),
            json!({}),
            &["node-restriction.kubernetes.io/a", "node-role.kubernetes.io/master"],
        );
        check(json!({"a.k8s.io/x": "1"}), json!({"a.k8s.io/x": "1"}), &[]);
        check(json!({}), json!({"a.k8s.io/x": "1"}), &["a.k8s.io/x"]);
        check(json!({"node.kubernetes.io/anything": "1"}), json!({}), &[]);
    }

    #[test]
    fn references() {
        let check =
            |spec: Value, expected: Option<&str>| assert_eq!(referenced(&json!({ "spec": spec })), expected);
        check(json!({"containers": [{"name": "a"}]}), None);
        check(json!({"volumes": [{"secret": {"secretName": "s"}}]}), Some("secrets"));
        check(json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}), Some("configmaps"));
        check(
            json!({"volumes": [{"persistentVolumeClaim": {"claimName": "c"}}]}),
            Some("persistentvolumeclaims"),
        );
    }
}
