//! Creating what is missing, many at once: the store syncs its disk once for all writes that wait.

use std::sync::Arc;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use machinery::status::{Reason, StatusError};

use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::text;

/// Start-up objects written at the same time: start-up is bound by syncs, not by this.
const WRITES_MAX: usize = 64;

/// Runs the writes, a bounded number at once; ends with the first failure.
pub async fn all(
    writes: impl Iterator<Item = impl Future<Output = Result<(), StatusError>>>,
) -> Result<(), StatusError> {
    futures::stream::iter(writes).buffer_unordered(WRITES_MAX).try_collect().await
}

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
