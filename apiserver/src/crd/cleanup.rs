//! A definition that is being deleted: its instances go first, then its finalizer.
//!
//! Source: apiextensions `controller/finalizer/crd_finalizer.go`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use machinery::status::StatusError;
use parking_lot::Mutex;
use serde_json::Value;

use super::names::set_condition;
use super::{GROUP, RESOURCE};
use crate::cache::Filter;
use crate::contract::{ClusterWriter, RequestContext, RequestInfo};
use crate::registry::options::DeleteOptions;
use crate::registry::{Registry, errors, meta};

/// Holds a definition until its instances are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Instances that finalizers hold are looked at again after this time, which doubles up to the maximum.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The definitions whose instances are being waited for, so that there is one waiter each.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<BTreeSet<String>>>);

impl Waiting {
    /// Enters a definition until the guard is dropped; `None` when it is there already.
    fn enter(&self, uid: &str) -> Option<Waiter> {
        let fresh = self.0.lock().insert(uid.to_owned());
        fresh.then(|| Waiter { all: self.clone(), uid: uid.to_owned() })
    }
}

struct Waiter {
    all: Waiting,
    uid: String,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.uid);
    }
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// Takes one step towards the end of the definition.
pub async fn run(
    registry: &Arc<Registry>,
    cluster: &Arc<dyn ClusterWriter>,
    definition: &Value,
    waiting: &Waiting,
) -> Result<(), StatusError> {
    if !meta::finalizers(definition).contains(&FINALIZER) {
        return Ok(());
    }
    let Some(waiter) = waiting.enter(meta::text(definition, "uid")) else { return Ok(()) };
    let mut next = definition.clone();
    let now = Timestamp::now();
    let message = "CustomResource deletion is in progress";
    set_condition(&mut next, "Terminating", "True", "InstanceDeletionInProgress", message, now);
    let marked = cluster.update_status(GROUP, RESOURCE, next).await?;
    if is_established(definition) {
        let (registry, cluster, marked) = (registry.clone(), cluster.clone(), marked.clone());
        // Instances can take long; other definitions are not kept waiting.
        tokio::spawn(async move {
            let _waiter = waiter;
            let mut pause = POLL_INTERVAL;
            while let Err(error) = delete_instances(&registry, &cluster, &marked).await {
                tracing::debug!(name = meta::name(&marked), %error, "instances of a deleted definition remain");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL_INTERVAL_MAX);
                if is_gone(&cluster, &marked).await {
                    return;
                }
            }
        });
        return Ok(());
    }
    finish(cluster, &marked).await
}

async fn delete_instances(
    registry: &Arc<Registry>,
    cluster: &Arc<dyn ClusterWriter>,
    definition: &Value,
) -> Result<(), StatusError> {
    if let Some(storage) = registry.catalog.custom_storage(meta::name(definition)) {
        let found = registry.catalog.snapshot().find_any_version(&storage.group, &storage.resource).cloned();
        let kind = found.ok_or_else(StatusError::not_found_path)?;
        let ctx = context(registry, cluster, &storage.group, &storage.resource);
        registry.delete_collection(&ctx, &kind, &Filter::default(), &DeleteOptions::default()).await?;
        storage.cache.wait_current().await.map_err(|e| errors::from_cache(&e))?;
        if !storage.cache.is_empty() {
            return Err(StatusError::internal("some instances are held by their finalizers"));
        }
    }
    finish(cluster, definition).await
}

/// Whether the very definition is known to be no longer there.
async fn is_gone(cluster: &Arc<dyn ClusterWriter>, definition: &Value) -> bool {
    let found = cluster.find(GROUP, RESOURCE, "", meta::name(definition)).await;
    let is_another = |current: Arc<Value>| meta::text(&current, "uid") != meta::text(definition, "uid");
    found.is_ok_and(|current| current.is_none_or(is_another))
}

/// Takes the finalizer away, which ends the definition.
async fn finish(cluster: &Arc<dyn ClusterWriter>, definition: &Value) -> Result<(), StatusError> {
    let current = cluster.find(GROUP, RESOURCE, "", meta::name(definition)).await?;
    let Some(current) = current else { return Ok(()) };
    let mut next = (*current).clone();
    let left: Vec<String> =
        meta::finalizers(&next).into_iter().filter(|f| *f != FINALIZER).map(str::to_owned).collect();
    meta::set_finalizers(&mut next, &left);
    set_condition(
        &mut next,
        "Terminating",
        "False",
        "InstanceDeletionCompleted",
        "removed all instances",
        Timestamp::now(),
    );
    cluster.update(GROUP, RESOURCE, next).await?;
    Ok(())
}

fn context(
    registry: &Registry,
    cluster: &Arc<dyn ClusterWriter>,
    group: &str,
    resource: &str,
) -> RequestContext {
    RequestContext {
        user: registry.internal_user(),
        info: RequestInfo {
            is_resource: true,
            verb: "deletecollection".to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            ..RequestInfo::default()
        },
        now: Timestamp::now(),
        dry_run: false,
        warnings: parking_lot::Mutex::default(),
        cluster: cluster.clone(),
    }
}
