//! NamespaceLifecycle: nothing is created in namespaces that do not exist or are on their way out; some never go.

use async_trait::async_trait;
use machinery::status::{Cause, StatusError};

use super::plugin::Plugin;
use crate::contract::{Admission, Operation};
use crate::kinds::json::{is_set, text};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The step.
pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        let info = &request.ctx.info;
        if info.group.is_empty() && info.resource == "namespaces" {
            let immortal = request.operation == Operation::Delete && IMMORTAL.contains(&info.name.as_str());
            if immortal {
                return Err(StatusError::forbidden(
                    "",
                    "namespaces",
                    &info.name,
                    "this namespace may not be deleted",
                ));
            }
            return Ok(());
        }
        let deletes = request.operation == Operation::Delete;
        let reviews = info.group == "authorization.k8s.io";
        if info.namespace.is_empty() || deletes || reviews {
            return Ok(());
        }
        check_namespace(request).await
    }
}

async fn check_namespace(request: &Admission<'_>) -> Result<(), StatusError> {
    let name = request.ctx.info.namespace.as_str();
    let cluster = &request.ctx.cluster;
    let namespace = cluster.find("", "namespaces", "", name).await?;
    let Some(namespace) = namespace else { return Err(StatusError::not_found("", "namespaces", name)) };
    let ends = text(&namespace, &["status", "phase"]) == "Terminating"
        || is_set(&namespace, &["metadata", "deletionTimestamp"]);
    if !request.creates() || !ends {
        return Ok(());
    }
    let cause = Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".to_owned(),
    };
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    Err(request.forbidden(why).with_cause(cause))
}
