//! The escalation check of RBAC objects, as a step of the chain.

use async_trait::async_trait;
use machinery::status::StatusError;

use super::plugin::Plugin;
use crate::authz::EscalationCheck;
use crate::contract::{Admission, Operation};

/// Upstream checks this in the storage of the four resources; here it is the last validating step.
pub struct RbacEscalation(pub EscalationCheck);

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        match request.operation {
            Operation::Create | Operation::Update => {
                self.0.check(request.ctx, request.new_object(), request.old).await
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }
}
