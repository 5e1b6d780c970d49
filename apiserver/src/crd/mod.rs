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
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::status::{Reason, StatusError};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cache::resource::Initial;
use crate::cache::{CacheError, EventType, Filter};
use crate::contract::ClusterWriter;
use crate::registry::writer::Cluster;
use crate::registry::{Registry, meta};
use names::Names;

pub const GROUP: &str = "apiextensions.k8s.io";
pub const RESOURCE: &str = "customresourcedefinitions";
/// Pause before following starts again after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Events handled before the others are looked at.
const BATCH_LEN_MAX: usize = 64;

/// Follows the definitions.
pub struct Definitions {
    registry: Arc<Registry>,
    cluster: Arc<dyn ClusterWriter>,
    waiting: cleanup::Waiting,
}

/// What is known of all definitions, by name.
type Known = BTreeMap<String, Arc<Value>>;

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
        let mut known = Known::new();
        if let Initial::Objects(entries) = start.initial {
            for entry in entries {
                known.insert(entry.key.to_string(), entry.value());
            }
        }
        for definition in known.values().cloned().collect::<Vec<_>>() {
            self.serve(&definition, &known);
        }
        ready();
        for definition in known.values().cloned().collect::<Vec<_>>() {
            self.settle(&definition, &known).await;
        }
        let mut items = Vec::new();
        while start.watcher.next_batch(&mut items, BATCH_LEN_MAX).await.is_ok() {
            for item in items.drain(..) {
                let name = item.event.entry.key.to_string();
                if item.event_type == EventType::Deleted {
                    self.forget(&name, &mut known).await;
                    continue;
                }
                let definition = item.event.entry.value();
                known.insert(name, definition.clone());
                self.serve(&definition, &known);
                self.settle(&definition, &known).await;
            }
        }
        Ok(())
    }

    /// Puts the definition's kinds into the catalog when its names are its own.
    fn serve(&self, definition: &Value, known: &Known) {
        let name = meta::name(definition);
        if !names::decide(definition, others(definition, known)).accepted {
            return;
        }
        match compile::kinds(&self.registry, definition) {
            Ok(kinds) => self.registry.catalog.set_custom(name, kinds),
            Err(errors) => tracing::warn!(name, ?errors, "a custom resource definition cannot be compiled"),
        }
    }

    /// Brings the status in line and, while it is being deleted, its instances to an end.
    async fn settle(&self, definition: &Value, known: &Known) {
        let result = if meta::is_deleting(definition) {
            cleanup::run(&self.registry, &self.cluster, definition, &self.waiting).await
        } else {
            self.update_status(definition, known).await
        };
        match result {
            Err(error) if !error.is(Reason::Conflict) && !error.is(Reason::NotFound) => {
                tracing::warn!(name = meta::name(definition), %error, "a custom resource definition is not settled");
            }
            // Somebody else was first; the event of that change comes next.
            _ => {}
        }
    }

    async fn update_status(&self, definition: &Value, known: &Known) -> Result<(), StatusError> {
        let names: Names = names::decide(definition, others(definition, known));
        let mut next = definition.clone();
        names.write_into(&mut next, jiff::Timestamp::now());
        if next["status"] != definition["status"] {
            self.cluster.update_status(GROUP, RESOURCE, next).await?;
        }
        Ok(())
    }

    /// A definition is gone: its kinds are no longer served, and its names are free for others.
    async fn forget(&self, name: &str, known: &mut Known) {
        known.remove(name);
        if let Some(storage) = self.registry.catalog.custom_storage(name) {
            self.registry.catalog.set_custom(name, Vec::new());
            storage.place.hub.remove(&storage.cache);
        }
        for definition in known.values().cloned().collect::<Vec<_>>() {
            self.serve(&definition, known);
            self.settle(&definition, known).await;
        }
    }
}

fn others<'a>(definition: &'a Value, known: &'a Known) -> impl Iterator<Item = &'a Value> {
    let name = meta::name(definition);
    let group = &definition["spec"]["group"];
    known.iter().filter(move |(n, d)| *n != name && d["spec"]["group"] == *group).map(|(_, d)| &**d)
}
