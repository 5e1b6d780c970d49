//! Nobody may give what they do not have: roles may only grant rights the writer holds or may `escalate`, bindings
//! only to roles the writer holds or may `bind`.

use std::sync::Arc;

use machinery::status::StatusError;
use serde_json::Value;

use super::RBAC_GROUP;
use super::rbac::RbacAuthorizer;
use super::rules::{Rule, go_list, missing};
use super::union::is_privileged;
use crate::contract::{Authorizer, Decision, Object, RequestContext, RequestInfo};
use crate::kinds::json::{at, same, text};

/// Checks writes of roles and bindings.
pub struct EscalationCheck {
    pub rbac: Arc<RbacAuthorizer>,
    /// The whole union: `escalate` and `bind` may be granted by any authorizer.
    pub authorizer: Arc<dyn Authorizer>,
}

impl EscalationCheck {
    /// Whether the request may write this role or binding; objects of other resources pass.
    pub async fn check(
        &self,
        ctx: &RequestContext,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), StatusError> {
        if ctx.info.group != RBAC_GROUP || is_privileged(&ctx.user) {
            return Ok(());
        }
        match ctx.info.resource.as_str() {
            "roles" | "clusterroles" => self.check_role(ctx, new, old).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(ctx, new, old).await,
            _ => Ok(()),
        }
    }

    async fn check_role(
        &self,
        ctx: &RequestContext,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), StatusError> {
        let unchanged = |part: &str| old.is_some_and(|old| same(at(new, &[part]), at(old, &[part])));
        if unchanged("rules") && unchanged("aggregationRule") {
            return Ok(());
        }
        let resource = ctx.info.resource.as_str();
        if self.may(ctx, "escalate", resource, &ctx.info.name).await {
            return Ok(());
        }
        let name = text(new, &["metadata", "name"]);
        let aggregates = |role: &Object| !at(role, &["aggregationRule"]).is_null();
        if resource == "clusterroles" && (aggregates(new) || old.is_some_and(aggregates)) {
            let all = json_rules(&serde_json::json!([
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]}
            ]));
            if self.uncovered(ctx, &all).await.is_some() {
                let why = "must have cluster-admin privileges to use the aggregationRule";
                return Err(StatusError::forbidden(RBAC_GROUP, resource, name, why));
            }
        }
        self.confirm(ctx, &Rule::list(new), name).await
    }

    async fn check_binding(
        &self,
        ctx: &RequestContext,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), StatusError> {
        let unchanged = |part: &str| old.is_some_and(|old| same(at(new, &[part]), at(old, &[part])));
        if unchanged("roleRef") && unchanged("subjects") {
            return Ok(());
        }
        let role_ref = &new["roleRef"];
        let resource = match text(role_ref, &["kind"]) {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Validation refuses other kinds with its own words.
            _ => return Ok(()),
        };
        if self.may(ctx, "bind", resource, text(role_ref, &["name"])).await {
            return Ok(());
        }
        let rules = self.rbac.role_rules(role_ref, &ctx.info.namespace).await?;
        self.confirm(ctx, &rules, text(new, &["metadata", "name"])).await
    }

    async fn may(&self, ctx: &RequestContext, verb: &str, resource: &str, name: &str) -> bool {
        let info = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: RBAC_GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: ctx.info.namespace.clone(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        matches!(self.authorizer.authorize(&ctx.user, &info).await, Decision::Allow { .. })
    }

    async fn confirm(&self, ctx: &RequestContext, rules: &[Rule], name: &str) -> Result<(), StatusError> {
        match self.uncovered(ctx, rules).await {
            None => Ok(()),
            Some(why) => Err(StatusError::forbidden(RBAC_GROUP, &ctx.info.resource, name, why)),
        }
    }

    /// Why the user does not hold all these rules.
    async fn uncovered(&self, ctx: &RequestContext, rules: &[Rule]) -> Option<String> {
        let (held, errors) = self.rbac.rules_for(&ctx.user, &ctx.info.namespace).await;
        let missing = missing(&held, rules);
        if missing.is_empty() {
            return None;
        }
        let mut why = format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            machinery::gotext::quote(&ctx.user.name),
            go_list(&ctx.user.groups),
            missing.join("\n")
        );
        if let Some(errors) = errors {
            why.push_str(&format!("; resolution errors: [{errors}]"));
        }
        Some(why)
    }
}

fn json_rules(rules: &Value) -> Vec<Rule> {
    rules.as_array().into_iter().flatten().map(Rule::from_json).collect()
}
