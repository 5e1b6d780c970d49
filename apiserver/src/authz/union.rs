//! The union of authorizers, and the privileged group.

use std::sync::Arc;

use async_trait::async_trait;

use super::MASTERS_GROUP;
use crate::contract::{Authorizer, Decision, RequestInfo, UserInfo};

/// Asks each authorizer in order; the first decision counts, reasons of those without opinion are collected.
pub struct Union {
    members: Vec<Arc<dyn Authorizer>>,
}

impl Union {
    pub fn new(members: Vec<Arc<dyn Authorizer>>) -> Self {
        Union { members }
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Decision {
        let mut reasons = Vec::new();
        for member in &self.members {
            match member.authorize(user, info).await {
                Decision::NoOpinion { reason } if reason.is_empty() => {}
                Decision::NoOpinion { reason } => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion { reason: reasons.join("\n") }
    }
}

/// Allows everything to members of `system:masters`.
pub struct PrivilegedGroup;

#[async_trait]
impl Authorizer for PrivilegedGroup {
    async fn authorize(&self, user: &UserInfo, _: &RequestInfo) -> Decision {
        if is_privileged(user) {
            Decision::Allow { reason: String::new() }
        } else {
            Decision::NoOpinion { reason: String::new() }
        }
    }
}

/// Allows everything to everybody (`--authorization-mode=AlwaysAllow`).
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &UserInfo, _: &RequestInfo) -> Decision {
        Decision::Allow { reason: String::new() }
    }
}

/// Whether the user is in `system:masters`.
pub fn is_privileged(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == MASTERS_GROUP)
}
