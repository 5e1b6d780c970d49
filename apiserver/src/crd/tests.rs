//! Following definitions on a store of its own, over writers that fail as the test says.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::alloc::{Allocators, PortRange, ServiceNetworks};
use crate::cache::Hub;
use crate::contract::{Admission, AdmissionChain, ClusterReader, Object, Selection};
use crate::kinds::Kinds;
use crate::registry::served::Served;
use crate::storage::embedded::EmbeddedStore;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Admits everything.
struct Open;

#[async_trait]
impl AdmissionChain for Open {
    async fn mutate(&self, _: &mut Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
    async fn validate(&self, _: &Admission<'_>) -> Result<(), StatusError> {
        Ok(())
    }
}

/// The cluster, but the next few writes of a status are lost.
struct Flaky {
    cluster: Arc<dyn ClusterWriter>,
    failures: AtomicUsize,
}

#[async_trait]
impl ClusterReader for Flaky {
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cluster.get(group, resource, namespace, name).await
    }
    async fn get_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        self.cluster.get_current(group, resource, namespace, name).await
    }
    async fn list(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        self.cluster.list(group, resource, namespace).await
    }
    async fn list_current(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        self.cluster.list_current(group, resource, namespace).await
    }
    async fn select(&self, group: &str, resource: &str, field: &str, value: &str) -> Selection {
        self.cluster.select(group, resource, field, value).await
    }
    fn version(&self, group: &str, resource: &str) -> u64 {
        self.cluster.version(group, resource)
    }
}

#[async_trait]
impl ClusterWriter for Flaky {
    async fn create(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        self.cluster.create(group, resource, object).await
    }
    async fn update(&self, group: &str, resource: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        self.cluster.update(group, resource, object).await
    }
    async fn update_status(
        &self,
        group: &str,
        resource: &str,
        object: Object,
    ) -> Result<Arc<Object>, StatusError> {
        let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(StatusError::service_unavailable("no leader"));
        }
        self.cluster.update_status(group, resource, object).await
    }
    async fn delete(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), StatusError> {
        self.cluster.delete(group, resource, namespace, name).await
    }
}

/// A registry with the built-in kinds, and what it stands on.
struct Fixture {
    registry: Arc<Registry>,
    _folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = raft_store::Config::embedded(folder.path().join("store"));
        let member = raft_store::Member::start(config).await.expect("a store");
        let store = Arc::new(EmbeddedStore::new(member));
        let shutdown = CancellationToken::new();
        let hub = Hub::start(store.clone(), shutdown.clone()).await.expect("a hub");
        let registry = Arc::new(Registry::new(hub, Arc::new(Open), Duration::ZERO));
        let networks = ServiceNetworks { networks: vec!["10.96.0.0/16".parse().expect("a network")] };
        let allocators = Arc::new(Allocators::new(networks, PortRange::default(), store));
        registry.install_builtin(&Arc::new(Kinds::new(allocators)), &Served::default());
        Self { registry, _folder: folder, shutdown }
    }

    /// Follows with so many writes of a status lost, until the fixture goes.
    fn follow(&self, failures: usize) {
        let cluster: Arc<dyn ClusterWriter> = Cluster::new(&self.registry);
        let cluster = Arc::new(Flaky { cluster, failures: failures.into() });
        let definitions = Definitions { cluster, ..Definitions::new(self.registry.clone()) };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move { definitions.run(|| (), shutdown).await });
    }

    fn serves(&self, resource: &str) -> bool {
        self.registry.catalog.snapshot().storage("example.com", resource).is_some()
    }

    async fn is_established(&self, resource: &str) -> bool {
        let name = format!("{resource}.example.com");
        let found = Cluster::new(&self.registry).get(GROUP, RESOURCE, "", &name).await;
        let conditions = found.map(|found| found["status"]["conditions"].clone()).unwrap_or_default();
        let mut conditions = conditions.as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Established" && c["status"] == "True")
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn definition(resource: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{resource}.example.com")},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": resource, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_written_is_written_later() {
    let fixture = Fixture::new().await;
    fixture.follow(3);
    let cluster = Cluster::new(&fixture.registry);
    cluster.create(GROUP, RESOURCE, definition("cups", "Cup")).await.expect("created");
    eventually("cups are established", async || fixture.is_established("cups").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_given_up_goes_to_who_waits_for_it() {
    let fixture = Fixture::new().await;
    fixture.follow(0);
    let cluster = Cluster::new(&fixture.registry);
    cluster.create(GROUP, RESOURCE, definition("cups", "Cup")).await.expect("created");
    eventually("cups are established", async || fixture.is_established("cups").await).await;
    cluster.create(GROUP, RESOURCE, definition("mugs", "Cup")).await.expect("created");
    let refused = async || {
        let found = cluster.get(GROUP, RESOURCE, "", "mugs.example.com").await;
        // The last of the names that are taken is the one that is told.
        found.is_some_and(|found| found["status"]["conditions"][0]["reason"] == "ListKindConflict")
    };
    eventually("mugs are refused", refused).await;
    assert!(!fixture.serves("mugs"));
    cluster.delete(GROUP, RESOURCE, "", "cups.example.com").await.expect("deleted");
    eventually("mugs are established", async || fixture.is_established("mugs").await).await;
    assert!(fixture.serves("mugs") && !fixture.serves("cups"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_nobody_followed_is_not_served() {
    let fixture = Fixture::new().await;
    let earlier = Definitions::new(fixture.registry.clone());
    earlier.serve(&definition("cups", "Cup"), &Known::default());
    assert!(fixture.serves("cups"));
    let caches = fixture.registry.hub.caches().len();
    fixture.follow(0);
    eventually("cups are not served", async || !fixture.serves("cups")).await;
    eventually("their cache is gone", async || fixture.registry.hub.caches().len() == caches - 1).await;
}
