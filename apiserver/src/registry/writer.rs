//! The pipeline as hooks, admission, authorizers and start-up code of this process use it.

use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use jiff::Timestamp;
use machinery::schema;
use machinery::status::StatusError;
use rustc_hash::FxHasher;
use serde_json::Value;

use super::kind::Kind;
use super::options::{DeleteOptions, WriteOptions};
use super::read::catch_up;
use super::update::{Replace, Target};
use super::{Answer, Registry, meta};
use crate::cache::Filter;
use crate::cache::filter::{FieldRef, FieldRequirement};
use crate::contract::{ClusterReader, ClusterWriter, Object, RequestContext, RequestInfo, Selection};

/// The field manager of this process' own writes.
const MANAGER: &str = "kube-apiserver";

/// Reads from the caches and writes through the registry, as this process.
#[derive(Clone)]
pub struct Cluster {
    registry: Weak<Registry>,
}

impl Cluster {
    pub fn new(registry: &Arc<Registry>) -> Arc<Self> {
        Arc::new(Self { registry: Arc::downgrade(registry) })
    }

    fn registry(&self) -> Result<Arc<Registry>, StatusError> {
        self.registry
            .upgrade()
            .ok_or_else(|| StatusError::service_unavailable("the API server is shutting down"))
    }

    fn kind(&self, group: &str, resource: &str) -> Result<(Arc<Registry>, Arc<Kind>), StatusError> {
        let registry = self.registry()?;
        let kind = registry.catalog.snapshot().find_any_version(group, resource).cloned();
        Ok((registry, kind.ok_or_else(StatusError::not_found_path)?))
    }

    fn context(
        &self,
        registry: &Registry,
        kind: &Kind,
        verb: &str,
        namespace: &str,
        name: &str,
    ) -> RequestContext {
        RequestContext {
            user: registry.internal_user(),
            info: RequestInfo {
                is_resource: true,
                verb: verb.to_owned(),
                group: kind.group.clone(),
                version: kind.version.clone(),
                resource: kind.resource.clone(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..RequestInfo::default()
            },
            now: Timestamp::now(),
            dry_run: false,
            warnings: parking_lot::Mutex::default(),
            cluster: Arc::new(self.clone()),
        }
    }

    /// The objects of a namespace, or of all, once the cache is as new as `resource_version` demands.
    async fn objects(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        resource_version: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        let storage = self.registry()?.catalog.snapshot().storage(group, resource).cloned();
        let Some(storage) = storage else { return Ok(Vec::new()) };
        catch_up(&storage, resource_version).await?;
        let namespace = Some(namespace.to_owned()).filter(|n| !n.is_empty());
        let (page, _) = storage.cache.list(&Filter { namespace, ..Filter::default() }, None, 0);
        Ok(page.entries.iter().map(|e| e.value()).collect())
    }

    async fn write(
        &self,
        group: &str,
        resource: &str,
        object: Object,
        subresource: &str,
    ) -> Result<Arc<Object>, StatusError> {
        let (registry, kind) = self.kind(group, resource)?;
        let object = complete(&kind, object)?;
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let ctx = self.context(&registry, &kind, "update", &namespace, &name);
        let target = Target { namespace: &namespace, name: &name, subresource };
        let (answer, _) = registry.update(&ctx, &kind, target, &Replace(object), &options()).await?;
        Ok(value(&kind, &answer))
    }
}

fn options() -> WriteOptions {
    WriteOptions { manager: MANAGER.to_owned(), ..WriteOptions::default() }
}

/// Kind, version, types and defaults, as a decoded request has them.
fn complete(kind: &Kind, mut object: Object) -> Result<Object, StatusError> {
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.as_str().into();
    if !kind.is_custom() {
        let decoded = schema::decode::decode(&kind.schema, &mut object);
        decoded.map_err(|text| schema::decode::bad_request(&kind.kind, &kind.api_version(), &text))?;
    }
    schema::default::apply(&kind.schema, &mut object);
    kind.hooks("").default(&mut object);
    Ok(object)
}

/// The answer as a tree at the kind's version.
pub fn value(kind: &Kind, answer: &Answer) -> Arc<Value> {
    match answer {
        Answer::Object(object) => object.clone(),
        Answer::Stored(entry) if kind.conversion == super::convert::Conversion::Same => entry.value(),
        Answer::Stored(entry) => Arc::new(super::update::served(kind, entry)),
    }
}

#[async_trait]
impl ClusterReader for Cluster {
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let registry = self.registry.upgrade()?;
        let storage = registry.catalog.snapshot().storage(group, resource).cloned()?;
        storage.cache.ready().await.ok()?;
        Some(storage.cache.get(&storage.object_key(namespace, name))?.value())
    }

    async fn get_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        let registry = self.registry()?;
        let storage = registry.catalog.snapshot().storage(group, resource).cloned();
        let Some(storage) = storage else { return Ok(None) };
        catch_up(&storage, "").await?;
        Ok(storage.cache.get(&storage.object_key(namespace, name)).map(|entry| entry.value()))
    }

    async fn list(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        self.objects(group, resource, namespace, "0").await
    }

    async fn list_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        self.objects(group, resource, namespace, "").await
    }

    async fn select(&self, group: &str, resource: &str, field: &str, value: &str) -> Selection {
        let nothing = || Selection::new(0, Vec::new);
        let Some(registry) = self.registry.upgrade() else { return nothing() };
        let Some(storage) = registry.catalog.snapshot().storage(group, resource).cloned() else {
            return nothing();
        };
        let slot = storage.cache.spec.fields.iter().position(|f| f.name == field);
        let (Some(slot), Ok(())) = (slot, storage.cache.ready().await) else { return nothing() };
        let requirement =
            FieldRequirement { field: FieldRef::Slot(slot), equals: true, value: value.to_owned() };
        let filter = Filter { fields: vec![requirement], ..Filter::default() };
        let entries = storage.cache.list(&filter, None, 0).0.entries;
        let mut hasher = FxHasher::default();
        entries.iter().for_each(|e| (&e.key, e.revision).hash(&mut hasher));
        Selection::new(hasher.finish(), move || entries.iter().map(|e| e.value()).collect())
    }

    fn version(&self, group: &str, resource: &str) -> u64 {
        let Some(registry) = self.registry.upgrade() else { return 0 };
        registry.catalog.snapshot().storage(group, resource).map_or(0, |s| s.cache.changes())
    }
}

#[async_trait]
impl ClusterWriter for Cluster {
    async fn create(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        let (registry, kind) = self.kind(group, resource)?;
        let object = complete(&kind, object)?;
        let (namespace, name) = (meta::namespace(&object).to_owned(), meta::name(&object).to_owned());
        let ctx = self.context(&registry, &kind, "create", &namespace, &name);
        let answer = registry.create(&ctx, &kind, object, &options()).await?;
        Ok(value(&kind, &answer))
    }

    async fn update(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        self.write(group, resource, object, "").await
    }

    async fn update_status(
        &self,
        group: &str,
        resource: &str,
        object: Object,
    ) -> Result<Arc<Object>, StatusError> {
        self.write(group, resource, object, "status").await
    }

    async fn delete(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), StatusError> {
        let (registry, kind) = self.kind(group, resource)?;
        let ctx = self.context(&registry, &kind, "delete", namespace, name);
        let target = Target { namespace, name, subresource: "" };
        registry.delete(&ctx, &kind, target, &DeleteOptions::default()).await?;
        Ok(())
    }
}
