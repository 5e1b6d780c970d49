//! The Node authorizer: a kubelet may touch what the pods bound to it need, and nothing else.
//!
//! Reasons are upstream's. What a node may write into its objects is limited further by the NodeRestriction
//! admission step.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::node_graph::{References, Target, volume_needs_secret};
use super::rules::Rule;
use crate::contract::{Authorizer, ClusterReader, Decision, RequestInfo, UserInfo};
use crate::kinds::json::text;

const NODES_GROUP: &str = "system:nodes";
const NODE_USER_PREFIX: &str = "system:node:";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Decides for users of the group `system:nodes`.
pub struct NodeAuthorizer {
    cluster: Arc<dyn ClusterReader>,
    /// What every node may do whatever runs on it: the rules of the role `system:node`.
    rules: Vec<Rule>,
    /// What the pods of each node refer to, as of their state with this number.
    known: Mutex<FxHashMap<String, (u64, Arc<References>)>>,
}

/// Nodes remembered; names of nodes that never were come and go with their requests.
const NODES_MAX: usize = 20_000;

/// The node a user speaks for: `None` when the user is no node, an empty name when it is one without a name.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(NODE_USER_PREFIX)?;
    user.groups.iter().any(|group| group == NODES_GROUP).then_some(name)
}

fn allow() -> Decision {
    Decision::Allow { reason: String::new() }
}

fn refuse(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion { reason: reason.into() }
}

impl NodeAuthorizer {
    pub fn new(cluster: Arc<dyn ClusterReader>, rules: Vec<Rule>) -> Self {
        NodeAuthorizer { cluster, rules, known: Mutex::default() }
    }

    async fn decide(&self, node: &str, info: &RequestInfo) -> Decision {
        let resource = info.resource.as_str();
        match (info.group.as_str(), resource) {
            ("", "secrets") => self.read_namespaced(node, info, Target::Secret).await,
            ("", "configmaps") => self.read_namespaced(node, info, Target::ConfigMap).await,
            ("", "persistentvolumeclaims") if info.subresource == "status" => {
                if !matches!(info.verb.as_str(), "update" | "patch") {
                    return refuse("can only get/update/patch this type");
                }
                self.related(node, info, Some(Target::Claim)).await
            }
            ("", "persistentvolumeclaims") => self.get_related(node, info, Some(Target::Claim)).await,
            ("", "persistentvolumes") => self.get_related(node, info, None).await,
            ("resource.k8s.io", "resourceclaims") => {
                self.get_related(node, info, Some(Target::ResourceClaim)).await
            }
            ("storage.k8s.io", "volumeattachments") => self.get_related(node, info, None).await,
            ("", "serviceaccounts") => self.service_account(node, info).await,
            ("coordination.k8s.io", "leases") => lease(node, info),
            ("storage.k8s.io", "csinodes") => csi_node(node, info),
            ("resource.k8s.io", "resourceslices") => self.slice(node, info).await,
            ("", "nodes") => own_node(node, info),
            ("", "pods") => self.pod(node, info).await,
            _ if self.rules.iter().any(|rule| rule.allows(info)) => allow(),
            _ => refuse(""),
        }
    }

    async fn read_namespaced(&self, node: &str, info: &RequestInfo, target: Target) -> Decision {
        if !matches!(info.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !info.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if info.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, info, Some(target)).await
    }

    async fn get_related(&self, node: &str, info: &RequestInfo, target: Option<Target>) -> Decision {
        if info.verb != "get" {
            return refuse("can only get individual resources of this type");
        }
        if !info.subresource.is_empty() {
            return refuse("cannot get subresource");
        }
        self.related(node, info, target).await
    }

    async fn service_account(&self, node: &str, info: &RequestInfo) -> Decision {
        if info.verb == "get" && info.subresource.is_empty() {
            return self.read_namespaced(node, info, Target::ServiceAccount).await;
        }
        if info.verb != "create" || info.name.is_empty() {
            return refuse("can only create tokens for individual service accounts");
        }
        if info.subresource != "token" {
            return refuse("can only create token subresource of serviceaccount");
        }
        self.related(node, info, Some(Target::ServiceAccount)).await
    }

    async fn slice(&self, node: &str, info: &RequestInfo) -> Decision {
        if !info.subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match info.verb.as_str() {
            "create" => allow(),
            "get" | "update" | "patch" | "delete" => self.related(node, info, None).await,
            "watch" | "list" | "deletecollection" if selects(info, node) => allow(),
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    async fn pod(&self, node: &str, info: &RequestInfo) -> Decision {
        match (info.subresource.as_str(), info.verb.as_str()) {
            ("", "get") => self.related(node, info, None).await,
            ("", "list" | "watch") if selects(info, node) => allow(),
            ("", "list" | "watch") if !info.name.is_empty() => self.related(node, info, None).await,
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => refuse(""),
        }
    }

    /// Allows when the named object belongs to the node; `target` when a pod must refer to it.
    async fn related(&self, node: &str, info: &RequestInfo, target: Option<Target>) -> Decision {
        if info.name.is_empty() {
            return refuse("No Object name found");
        }
        let found = match target {
            Some(target) => self.pod_refers(node, &info.namespace, target, &info.name).await,
            None => self.directly_related(node, info).await,
        };
        let by_volume = found || (target == Some(Target::Secret) && self.volume_secret(node, info).await);
        if by_volume {
            return allow();
        }
        refuse(format!("no relationship found between node '{node}' and this object"))
    }

    /// The references of the node's pods; gathered again only when one of those pods has changed.
    async fn references(&self, node: &str) -> Arc<References> {
        let pods = self.cluster.select("", "pods", "spec.nodeName", node).await;
        if let Some((version, found)) = self.known.lock().get(node)
            && *version == pods.version
        {
            return found.clone();
        }
        let found = Arc::new(References::of(&pods.objects()));
        let mut known = self.known.lock();
        if known.len() >= NODES_MAX {
            known.clear();
        }
        known.insert(node.to_owned(), (pods.version, found.clone()));
        found
    }

    async fn pod_refers(&self, node: &str, namespace: &str, target: Target, name: &str) -> bool {
        self.references(node).await.contains(target, namespace, name)
    }

    async fn directly_related(&self, node: &str, info: &RequestInfo) -> bool {
        let stored = self.cluster.get(&info.group, &info.resource, &info.namespace, &info.name).await;
        let Some(stored) = stored else { return false };
        match info.resource.as_str() {
            "persistentvolumes" => self.uses_volume(node, &stored).await,
            _ => text(&stored, &["spec", "nodeName"]) == node,
        }
    }

    async fn uses_volume(&self, node: &str, volume: &serde_json::Value) -> bool {
        let namespace = text(volume, &["spec", "claimRef", "namespace"]);
        let claim = text(volume, &["spec", "claimRef", "name"]);
        !claim.is_empty() && self.pod_refers(node, namespace, Target::Claim, claim).await
    }

    /// Whether a volume that the node's pods claim needs the secret.
    async fn volume_secret(&self, node: &str, info: &RequestInfo) -> bool {
        let references = self.references(node).await;
        for (namespace, claim) in references.claims() {
            let claim = self.cluster.get("", "persistentvolumeclaims", namespace, claim).await;
            let Some(claim) = claim else { continue };
            let volume = text(&claim, &["spec", "volumeName"]);
            let volume = self.cluster.get("", "persistentvolumes", "", volume).await;
            if volume.is_some_and(|volume| volume_needs_secret(&volume, &info.namespace, &info.name)) {
                return true;
            }
        }
        false
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Decision {
        match node_of(user) {
            None => refuse(""),
            Some("") => refuse(format!("unknown node for user {}", machinery::gotext::quote(&user.name))),
            Some(_) if !info.is_resource => match self.rules.iter().any(|rule| rule.allows(info)) {
                true => allow(),
                false => refuse(""),
            },
            Some(node) => self.decide(node, info).await,
        }
    }
}

/// Whether the request's field selector asks for the node's objects only.
fn selects(info: &RequestInfo, node: &str) -> bool {
    info.field_selector.split(',').any(|part| {
        let (key, value) = part.split_once("==").or_else(|| part.split_once('=')).unwrap_or_default();
        key == "spec.nodeName" && value == node
    })
}

fn lease(node: &str, info: &RequestInfo) -> Decision {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if info.namespace != LEASE_NAMESPACE {
        return refuse(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
    }
    if info.verb != "create" && info.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    allow()
}

fn csi_node(node: &str, info: &RequestInfo) -> Decision {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !info.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if info.verb != "create" && info.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    allow()
}

fn own_node(node: &str, info: &RequestInfo) -> Decision {
    match (info.subresource.as_str(), info.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") if info.name == node => allow(),
        ("", "get" | "list" | "watch") if info.name.is_empty() => {
            refuse(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            refuse(format!("node '{node}' cannot read '{}', only its own Node object", info.name))
        }
        _ => refuse(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, resource: &str, name: &str, selector: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            field_selector: selector.to_owned(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn own_node_only() {
        assert_eq!(own_node("n", &request("get", "nodes", "n", "")), allow());
        assert_eq!(
            own_node("n", &request("get", "nodes", "m", "")),
            refuse("node 'n' cannot read 'm', only its own Node object")
        );
        assert_eq!(own_node("n", &request("delete", "nodes", "n", "")), refuse(""));
    }

    #[test]
    fn selectors() {
        for (selector, expected) in [
            ("spec.nodeName=n", true),
            ("a=b,spec.nodeName==n", true),
            ("spec.nodeName!=n", false),
            ("", false),
        ] {
            assert_eq!(selects(&request("list", "pods", "", selector), "n"), expected, "{selector}");
        }
    }

    #[test]
    fn identity() {
        let user = |name: &str, group: &str| UserInfo {
            name: name.to_owned(),
            groups: vec![group.to_owned()],
            ..UserInfo::default()
        };
        assert_eq!(node_of(&user("system:node:a", NODES_GROUP)), Some("a"));
        assert_eq!(node_of(&user("system:node:a", "x")), None);
        assert_eq!(node_of(&user("a", NODES_GROUP)), None);
    }
}
