//! The RBAC authorizer: an index of grants that follows the roles and bindings in the cache.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use machinery::status::StatusError;
use tokio::sync::Mutex;

use super::RBAC_GROUP;
use super::rbac_index::{RbacIndex, RbacObjects};
use super::rules::{Rule, join_errors};
use crate::contract::{Authorizer, ClusterReader, Decision, RequestInfo, UserInfo};

const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

type Versions = [u64; RESOURCES.len()];

/// Decides by the roles and bindings of the cluster.
pub struct RbacAuthorizer {
    cluster: Arc<dyn ClusterReader>,
    index: ArcSwapOption<(Versions, RbacIndex)>,
    /// Held while an index is built, so that a burst of requests builds it once.
    building: Mutex<()>,
}

impl RbacAuthorizer {
    pub fn new(cluster: Arc<dyn ClusterReader>) -> Self {
        RbacAuthorizer { cluster, index: ArcSwapOption::empty(), building: Mutex::new(()) }
    }

    /// The rules the user holds in the namespace, and why the list may be incomplete.
    pub async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let index = match self.index().await {
            Ok(index) => index,
            Err(error) => return (Vec::new(), Some(error.message().to_owned())),
        };
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for grant in index.1.grants(user, namespace) {
            match &grant.rules {
                Ok(granted) => rules.extend(granted.iter().cloned()),
                Err(why) => errors.push(why.clone()),
            }
        }
        (rules, join_errors(errors))
    }

    /// The rules behind a role reference.
    pub async fn role_rules(
        &self,
        role_ref: &serde_json::Value,
        namespace: &str,
    ) -> Result<Arc<[Rule]>, StatusError> {
        let rules = self.index().await?.1.role_rules(role_ref, namespace);
        rules.map_err(|_| {
            // Upstream answers with the binding's kind and the role's name.
            let kind = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
            let name = role_ref["name"].as_str().unwrap_or_default();
            StatusError::not_found(RBAC_GROUP, kind, name)
        })
    }

    fn versions(&self) -> Versions {
        RESOURCES.map(|resource| self.cluster.version(RBAC_GROUP, resource))
    }

    /// The grants as cached. What cannot be read is not kept as "nobody may do anything": nothing would change it later.
    async fn index(&self) -> Result<Arc<(Versions, RbacIndex)>, StatusError> {
        if let Some(index) = self.fresh() {
            return Ok(index);
        }
        let _one_builder = self.building.lock().await;
        if let Some(index) = self.fresh() {
            return Ok(index);
        }
        // Read before the lists: a change in between makes the next request build again.
        let versions = self.versions();
        let list = |resource| self.cluster.list(RBAC_GROUP, resource, "");
        let objects = RbacObjects {
            cluster_roles: list("clusterroles").await?,
            roles: list("roles").await?,
            cluster_role_bindings: list("clusterrolebindings").await?,
            role_bindings: list("rolebindings").await?,
        };
        let index = Arc::new((versions, RbacIndex::build(&objects)));
        self.index.store(Some(index.clone()));
        Ok(index)
    }

    fn fresh(&self) -> Option<Arc<(Versions, RbacIndex)>> {
        self.index.load_full().filter(|index| index.0 == self.versions())
    }
}

#[async_trait]
impl Authorizer for RbacAuthorizer {
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Decision {
        match self.index().await {
            Ok(index) => decide(&index.1, user, info),
            Err(error) => {
                let reason = format!("RBAC: roles and bindings cannot be read: {}", error.message());
                Decision::NoOpinion { reason }
            }
        }
    }
}

fn decide(index: &RbacIndex, user: &UserInfo, info: &RequestInfo) -> Decision {
    let mut errors = Vec::new();
    for grant in index.grants(user, &info.namespace) {
        match &grant.rules {
            Ok(rules) if rules.iter().any(|rule| rule.allows(info)) => {
                return Decision::Allow { reason: format!("RBAC: allowed by {}", grant.source) };
            }
            Ok(_) => {}
            Err(why) => errors.push(why.clone()),
        }
    }
    let reason = join_errors(errors).map(|errors| format!("RBAC: {errors}"));
    Decision::NoOpinion { reason: reason.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Veiled;
    use serde_json::{Value, json};

    fn index() -> RbacIndex {
        let all = |objects: Value| objects.as_array().unwrap().iter().cloned().map(Arc::new).collect();
        let binding = |name: &str, role: Value, subjects: Value| json!({"metadata": {"name": name, "namespace": "ns"}, "roleRef": role, "subjects": subjects});
        let view = json!({"kind": "ClusterRole", "name": "view"});
        let gone = json!({"kind": "ClusterRole", "name": "gone"});
        RbacIndex::build(&RbacObjects {
            cluster_roles: all(
                json!([{"metadata": {"name": "view"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}]),
            ),
            roles: vec![],
            cluster_role_bindings: all(json!([
                binding("all", view.clone(), json!([{"kind": "Group", "name": "viewers"}])),
                binding("lost", gone, json!([{"kind": "User", "name": "eve"}])),
                binding("sa", view.clone(), json!([{"kind": "ServiceAccount", "name": "bot"}])),
            ])),
            role_bindings: all(json!([
                binding("local", view.clone(), json!([{"kind": "ServiceAccount", "name": "bot"}])),
                binding("other", view, json!([{"kind": "ServiceAccount", "name": "bot", "namespace": "x"}])),
            ])),
        })
    }

    fn check(user: &str, group: &str, namespace: &str, expected: Result<&str, &str>) {
        let user = UserInfo { name: user.to_owned(), groups: vec![group.to_owned()], ..UserInfo::default() };
        let info = RequestInfo {
            is_resource: true,
            verb: "get".to_owned(),
            resource: "pods".to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        let got = match decide(&index(), &user, &info) {
            Decision::Allow { reason } => Ok(reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(reason),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), expected);
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_read_again() {
        let binding = json!({"metadata": {"name": "view"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "Group", "name": "viewers"}],
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        let cluster = Arc::new(Veiled { objects: vec![Arc::new(binding)], ..Veiled::default() });
        let rbac = RbacAuthorizer::new(cluster.clone());
        let user = UserInfo { groups: vec!["viewers".to_owned()], ..UserInfo::default() };
        let info = RequestInfo {
            is_resource: true,
            verb: "get".to_owned(),
            resource: "pods".to_owned(),
            ..RequestInfo::default()
        };
        let unknown = rbac.authorize(&user, &info).await;
        assert!(
            matches!(&unknown, Decision::NoOpinion { reason } if reason.contains("cannot be read")),
            "{unknown:?}"
        );
        cluster.is_readable.store(true, std::sync::atomic::Ordering::SeqCst);
        let known = rbac.authorize(&user, &info).await;
        assert!(
            matches!(known, Decision::Allow { .. }),
            "nothing has changed, and it is known now: {known:?}"
        );
    }

    #[test]
    fn reasons() {
        let group = r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "view" to Group "viewers""#;
        check("joe", "viewers", "", Ok(group));
        check("joe", "others", "ns", Err(""));
        check("eve", "", "ns", Err(r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#));
        let local =
            r#"RBAC: allowed by RoleBinding "local/ns" of ClusterRole "view" to ServiceAccount "bot/ns""#;
        check("system:serviceaccount:ns:bot", "", "ns", Ok(local));
        check("system:serviceaccount:ns:bot", "", "", Err(""));
        let other =
            r#"RBAC: allowed by RoleBinding "other/ns" of ClusterRole "view" to ServiceAccount "bot/x""#;
        check("system:serviceaccount:x:bot", "", "ns", Ok(other));
    }
}
