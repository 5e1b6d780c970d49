//! A registry with every built-in kind over a store that holds nothing, for targets that run the rules of kinds.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use apiserver::alloc::{Allocators, PortRange, ServiceNetworks};
use apiserver::cache::Hub;
use apiserver::contract::{
    AdmissionChain, ClusterReader, ClusterWriter, Object, RequestContext, Selection, UserInfo,
};
use apiserver::kinds::Kinds;
use apiserver::registry::Registry;
use apiserver::registry::kind::Kind;
use apiserver::registry::served::Served;
use apiserver::storage::{Store, StoreError, Watch};
use async_trait::async_trait;
use machinery::status::StatusError;
use proto::etcdserverpb as pb;
use tokio_util::sync::CancellationToken;

/// A store without keys that takes no writes.
struct NoStore;

fn none<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("there is no store".into()))
}

#[async_trait]
impl Store for NoStore {
    async fn range(&self, _: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        none()
    }
    async fn txn(&self, _: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        none()
    }
    async fn compact(&self, _: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        none()
    }
    async fn watch(&self, _: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        none()
    }
    async fn lease_grant(&self, _: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        none()
    }
    async fn lease_revoke(&self, _: i64) -> Result<(), StoreError> {
        none()
    }
    async fn lease_keep_alive(&self, _: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        none()
    }
    async fn current_revision(&self) -> Result<i64, StoreError> {
        Ok(1)
    }
    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        none()
    }
}

/// A cluster without objects.
pub struct Nothing;

#[async_trait]
impl ClusterReader for Nothing {
    async fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }
    async fn get_current(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: &str,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        Ok(None)
    }
    async fn list(&self, _: &str, _: &str, _: &str) -> Result<Vec<Arc<Object>>, StatusError> {
        Ok(Vec::new())
    }
    async fn list_current(&self, _: &str, _: &str, _: &str) -> Result<Vec<Arc<Object>>, StatusError> {
        Ok(Vec::new())
    }
    async fn select(&self, _: &str, _: &str, _: &str, _: &str) -> Selection {
        Selection::new(0, Vec::new)
    }
    fn version(&self, _: &str, _: &str) -> u64 {
        0
    }
}

#[async_trait]
impl ClusterWriter for Nothing {
    async fn create(&self, _: &str, _: &str, _: Object) -> Result<Arc<Object>, StatusError> {
        Err(StatusError::service_unavailable("no writes here"))
    }
    async fn update(&self, _: &str, _: &str, _: Object) -> Result<Arc<Object>, StatusError> {
        Err(StatusError::service_unavailable("no writes here"))
    }
    async fn update_status(&self, _: &str, _: &str, _: Object) -> Result<Arc<Object>, StatusError> {
        Err(StatusError::service_unavailable("no writes here"))
    }
    async fn delete(&self, _: &str, _: &str, _: &str, _: &str) -> Result<(), StatusError> {
        Err(StatusError::service_unavailable("no writes here"))
    }
}

/// Everything is admitted.
struct Open;

#[async_trait]
impl AdmissionChain for Open {
    async fn mutate(&self, _: &mut apiserver::contract::Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
    async fn validate(&self, _: &apiserver::contract::Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
}

/// The registry, made once a process, with the runtime its tasks belong to.
pub struct World {
    pub registry: Arc<Registry>,
    pub kinds: Vec<Arc<Kind>>,
    pub runtime: tokio::runtime::Runtime,
}

pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store: Arc<dyn Store> = Arc::new(NoStore);
    let hub = runtime.block_on(Hub::start(store.clone(), CancellationToken::new())).expect("a hub");
    let registry = Arc::new(Registry::new(hub, Arc::new(Open), Duration::ZERO));
    let networks = ServiceNetworks { networks: vec!["10.0.0.0/24".parse().expect("a network")] };
    let range = "30000-32767".parse::<PortRange>().expect("a range");
    registry.install_builtin(
        &Arc::new(Kinds::new(Arc::new(Allocators::new(networks, range, store)))),
        &Served::default(),
    );
    let kinds = registry.catalog.snapshot().kinds().filter(|k| k.storage.is_some()).cloned().collect();
    World { registry, kinds, runtime }
});

/// A request to create or change an object of the kind.
pub fn context(kind: &Kind) -> RequestContext {
    let info = apiserver::contract::RequestInfo {
        is_resource: true,
        verb: "create".into(),
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.resource.to_string(),
        namespace: if kind.namespaced { "default".into() } else { String::new() },
        ..Default::default()
    };
    RequestContext {
        user: UserInfo { name: "fuzz".into(), ..Default::default() },
        info,
        now: jiff::Timestamp::UNIX_EPOCH,
        dry_run: false,
        warnings: parking_lot::Mutex::default(),
        cluster: Arc::new(Nothing),
    }
}
