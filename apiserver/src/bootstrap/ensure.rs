//! Creating what is missing.

use std::sync::Arc;

use machinery::status::{Reason, StatusError};

use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::text;

/// The stored object, created from the given one when there is none.
pub async fn ensure(
    cluster: &dyn ClusterWriter,
    group: &str,
    resource: &str,
    object: Object,
) -> Result<Arc<Object>, StatusError> {
    let namespace = text(&object, &["metadata", "namespace"]).to_owned();
    let name = text(&object, &["metadata", "name"]).to_owned();
    if let Some(stored) = cluster.get(group, resource, &namespace, &name).await {
        return Ok(stored);
    }
    match cluster.create(group, resource, object.clone()).await {
        Err(error) if error.reason() == Reason::AlreadyExists => {
            Ok(cluster.get(group, resource, &namespace, &name).await.unwrap_or_else(|| Arc::new(object)))
        }
        created => created,
    }
}

/// Whether a write may be skipped because another server was quicker.
pub fn lost_race(error: &StatusError) -> bool {
    matches!(error.reason(), Reason::Conflict | Reason::AlreadyExists | Reason::NotFound)
}
