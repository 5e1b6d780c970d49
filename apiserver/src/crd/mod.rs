//! Custom resource definitions: compiled into the same structures as built-in kinds and served at once.
//!
//! [`names`] decides which names a definition gets, [`compile`] turns it into kinds, [`hooks`] are the rules of the
//! definition objects themselves, [`cleanup`] deletes instances when a definition goes. This module follows the
//! definitions and keeps the catalog right. Every server does so; status writes are compare-and-set, so several
//! servers agree.

pub mod cleanup;
pub mod compile;
pub mod hooks;
pub mod names;
#[cfg(test)]
mod tests;
pub mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use machinery::status::{Reason, StatusError};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::resource::Initial;
use crate::cache::watcher::WatchItem;
use crate::cache::{CacheError, EventType, Filter};
use crate::contract::ClusterWriter;
use crate::registry::writer::Cluster;
use crate::registry::{Registry, meta};
use names::Names;

pub const GROUP: &str = "apiextensions.k8s.io";
pub const RESOURCE: &str = "customresourcedefinitions";
/// Pause before following starts again after a failure, and between two attempts to settle definitions; the latter
/// doubles up to the maximum while there is one that cannot be settled.
const RETRY_DELAY: Duration = Duration::from_millis(500);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Events handled before the others are looked at.
const BATCH_LEN_MAX: usize = 64;

/// Follows the definitions.
pub struct Definitions {
    registry: Arc<Registry>,
    cluster: Arc<dyn ClusterWriter>,
    waiting: cleanup::Waiting,
}

/// What is known of all definitions, by name.
#[derive(Default)]
struct Known {
    definitions: BTreeMap<String, Arc<Value>>,
    /// Those whose status or end could not be written.
    unsettled: BTreeSet<String>,
}

impl Known {
    fn all(&self) -> Vec<Arc<Value>> {
        self.definitions.values().cloned().collect()
    }

    /// The other definitions of the same group.
    fn others<'a>(&'a self, definition: &'a Value) -> impl Iterator<Item = &'a Value> {
        let (name, group) = (meta::name(definition), &definition["spec"]["group"]);
        let others = self.definitions.iter().filter(move |(n, d)| *n != name && d["spec"]["group"] == *group);
        others.map(|(_, d)| &**d)
    }
}

impl Definitions {
    pub fn new(registry: Arc<Registry>) -> Self {
        let cluster = Cluster::new(&registry);
        Self { registry, cluster, waiting: cleanup::Waiting::default() }
    }

    /// Follows until `shutdown`; `ready` is called once the definitions that exist are served.
    pub async fn run(&self, ready: impl Fn(), shutdown: CancellationToken) {
        loop {
            let followed = tokio::select! {
                result = self.follow(&ready) => result,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "following custom resource definitions failed; starting again");
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow(&self, ready: &impl Fn()) -> Result<(), CacheError> {
        let storage = self.registry.catalog.snapshot().storage(GROUP, RESOURCE).cloned();
        let storage = storage.ok_or(CacheError::Stopped)?;
        storage.cache.wait_current().await?;
        let start = storage.cache.watch(Filter::default(), None)?;
        let mut known = Known::default();
        if let Initial::Objects(entries) = start.initial {
            for entry in entries {
                known.definitions.insert(entry.key.to_string(), entry.value());
            }
        }
        self.begin(&mut known, ready).await;
        let mut items = Vec::new();
        let (mut pause, mut retry_at) = (RETRY_DELAY, Instant::now());
        loop {
            tokio::select! {
                batch = start.watcher.next_batch(&mut items, BATCH_LEN_MAX) => {
                    if batch.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(retry_at), if !known.unsettled.is_empty() => {
                    self.settle_again(&mut known).await;
                    let is_over = known.unsettled.is_empty();
                    pause = if is_over { RETRY_DELAY } else { (pause * 2).min(RETRY_DELAY_MAX) };
                    retry_at = Instant::now() + pause;
                }
            }
            for item in items.drain(..) {
                self.take(&item, &mut known).await;
            }
        }
    }

    /// Serves what there is, and no longer what went while nobody followed.
    async fn begin(&self, known: &mut Known, ready: &impl Fn()) {
        for name in self.registry.catalog.custom_names() {
            if !known.definitions.contains_key(&name) {
                self.unserve(&name);
            }
        }
        for definition in known.all() {
            self.serve(&definition, known);
        }
        ready();
        for definition in known.all() {
            self.settle(&definition, known).await;
        }
    }

    async fn take(&self, item: &WatchItem, known: &mut Known) {
        let name = item.event.entry.key.to_string();
        if item.event_type == EventType::Deleted {
            self.forget(&name, known).await;
            return;
        }
        let definition = item.event.entry.value();
        known.definitions.insert(name, definition.clone());
        self.serve(&definition, known);
        self.settle(&definition, known).await;
    }

    async fn settle_again(&self, known: &mut Known) {
        for name in std::mem::take(&mut known.unsettled) {
            if let Some(definition) = known.definitions.get(&name).cloned() {
                self.settle(&definition, known).await;
            }
        }
    }

    /// Puts the definition's kinds into the catalog when its names are its own.
    fn serve(&self, definition: &Value, known: &Known) {
        let name = meta::name(definition);
        if !names::decide(definition, known.others(definition)).accepted {
            return;
        }
        match compile::kinds(&self.registry, definition) {
            Ok(kinds) => self.registry.catalog.set_custom(name, kinds),
            Err(errors) => tracing::warn!(name, ?errors, "a custom resource definition cannot be compiled"),
        }
    }

    /// Brings the status in line and, while it is being deleted, its instances to an end; notes when that failed.
    async fn settle(&self, definition: &Value, known: &mut Known) {
        let result = if meta::is_deleting(definition) {
            cleanup::run(&self.registry, &self.cluster, definition, &self.waiting).await
        } else {
            self.update_status(definition, known).await
        };
        let name = meta::name(definition);
        match result {
            Err(error) if !error.is(Reason::Conflict) && !error.is(Reason::NotFound) => {
                tracing::warn!(name, %error, "a custom resource definition is not settled");
                known.unsettled.insert(name.to_owned());
            }
            // Somebody else may have been first; the event of that change comes next.
            _ => {
                known.unsettled.remove(name);
            }
        }
    }

    async fn update_status(&self, definition: &Value, known: &Known) -> Result<(), StatusError> {
        let names: Names = names::decide(definition, known.others(definition));
        let mut next = definition.clone();
        names.write_into(&mut next, jiff::Timestamp::now());
        if next["status"] != definition["status"] {
            self.cluster.update_status(GROUP, RESOURCE, next).await?;
        }
        Ok(())
    }

    /// A definition is gone: its kinds are no longer served, and its names are free for those that were refused them.
    async fn forget(&self, name: &str, known: &mut Known) {
        self.unserve(name);
        known.unsettled.remove(name);
        let Some(gone) = known.definitions.remove(name) else { return };
        let waiting: Vec<_> = known.others(&gone).filter(|d| !names::are_accepted(d)).cloned().collect();
        for definition in waiting {
            self.serve(&definition, known);
            self.settle(&definition, known).await;
        }
    }

    fn unserve(&self, name: &str) {
        if let Some(storage) = self.registry.catalog.custom_storage(name) {
            self.registry.catalog.set_custom(name, Vec::new());
            storage.place.hub.remove(&storage.cache);
        }
    }
}
