//! Kinds that are answered and never stored: access reviews, token reviews, self reviews, token requests.

pub mod access;
pub mod token;

use std::sync::Arc;

use machinery::status::StatusError;
use serde_json::{Value, json};

use crate::authn::BearerTokens;
use crate::authz::RbacAuthorizer;
use crate::contract::{Authorizer, Object, RequestContext, UserInfo};
use crate::kinds::json::text;
use crate::tokens::TokenIssuer;

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Answers the virtual kinds.
pub struct Reviews {
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Arc<RbacAuthorizer>,
    pub bearer: Arc<BearerTokens>,
    /// The audiences of this server.
    pub audiences: Vec<String>,
    /// Absent when no signing key was given; token requests then answer 404.
    pub issuer: Option<Arc<TokenIssuer>>,
}

impl Reviews {
    /// Whether creations of this resource are answered here.
    pub fn handles(group: &str, resource: &str, subresource: &str) -> bool {
        matches!(
            (group, resource, subresource),
            ("", "serviceaccounts", "token")
                | (AUTHORIZATION, _, "")
                | (AUTHENTICATION, "tokenreviews" | "selfsubjectreviews", "")
        )
    }

    /// The object with its status filled in.
    pub async fn create(&self, ctx: &RequestContext, object: Object) -> Result<Object, StatusError> {
        match ctx.info.resource.as_str() {
            "serviceaccounts" => match &self.issuer {
                Some(issuer) => issuer.request(ctx, object).await,
                None => Err(StatusError::not_found_path()),
            },
            "subjectaccessreviews" => access::subject(self, object).await,
            "selfsubjectaccessreviews" => access::own(self, ctx, object).await,
            "localsubjectaccessreviews" => access::local(self, ctx, object).await,
            "selfsubjectrulesreviews" => self.own_rules(ctx, object).await,
            "selfsubjectreviews" => Ok(own_identity(ctx, object)),
            "tokenreviews" => token::review(self, ctx, object).await,
            _ => Err(StatusError::not_found_path()),
        }
    }

    async fn own_rules(&self, ctx: &RequestContext, mut review: Object) -> Result<Object, StatusError> {
        let namespace = text(&review, &["spec", "namespace"]).to_owned();
        if namespace.is_empty() {
            return Err(StatusError::bad_request("no namespace on request"));
        }
        let (mut rules, error) = self.rbac.rules_for(&ctx.user, &namespace).await;
        if crate::authz::union::is_privileged(&ctx.user) {
            rules.splice(0..0, everything());
        }
        let is_node = crate::authz::node::node_of(&ctx.user).is_some();
        let of = |resource: bool| {
            rules
                .iter()
                .filter(|rule| {
                    if resource { !rule.resources.is_empty() } else { !rule.non_resource_urls.is_empty() }
                })
                .map(|rule| split(rule, resource))
                .collect::<Vec<_>>()
        };
        let mut status =
            json!({ "resourceRules": of(true), "nonResourceRules": of(false), "incomplete": is_node });
        let node_error = is_node.then(|| "node authorizer does not support user rule resolution".to_owned());
        if let Some(error) = node_error.or(error) {
            status["evaluationError"] = json!(error);
        }
        review["spec"] = json!({});
        review["status"] = status;
        Ok(review)
    }
}

/// What `system:masters` may do.
fn everything() -> Vec<crate::authz::Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        crate::authz::Rule { verbs: all(), api_groups: all(), resources: all(), ..Default::default() },
        crate::authz::Rule { verbs: all(), non_resource_urls: all(), ..Default::default() },
    ]
}

/// The half of a rule that speaks of resources, or the one that speaks of URLs.
fn split(rule: &crate::authz::Rule, resource: bool) -> Value {
    let mut half = rule.clone();
    if resource {
        half.non_resource_urls.clear();
    } else {
        half.api_groups.clear();
        half.resources.clear();
        half.resource_names.clear();
    }
    half.to_json()
}

fn own_identity(ctx: &RequestContext, mut review: Object) -> Object {
    review["metadata"] = json!({ "creationTimestamp": machinery::time::format_time(ctx.now) });
    review["status"] = json!({ "userInfo": user_json(&ctx.user) });
    review
}

/// A user as `authentication.k8s.io/v1` UserInfo.
pub fn user_json(user: &UserInfo) -> Value {
    let mut out = json!({ "username": user.name });
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}
