//! One API server in this process: puts store, caches, registry, meaning and HTTP together and runs them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use machinery::status::StatusError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::alloc::{Allocators, PortRange, ServiceNetworks};
use crate::bootstrap::{self, Meaning, MeaningError};
use crate::cache::Hub;
use crate::compaction;
use crate::contract::{Admission, AdmissionChain, ClusterWriter};
use crate::crd::Definitions;
use crate::http::Api;
use crate::http::configz;
use crate::http::discovery::Discovery;
use crate::http::health::{self, Health};
use crate::http::limits::Limits;
use crate::http::listener::Listener;
use crate::http::openapi::OpenApi;
use crate::http::tls::{Source, Spoken, TlsError, server_config};
use crate::http::upkeep;
use crate::kinds::Kinds;
use crate::metrics::{MeteredAdmission, Metrics};
use crate::metrics_api::MetricsApi;
use crate::registry::Registry;
use crate::registry::served::Served;
use crate::registry::writer::Cluster;
use crate::storage::metered::{MeteredStore, StoreMetrics};
use crate::storage::{Store, StoreError};
use crate::subresources::Subresources;
use crate::subresources::kubelet::{Kubelet, KubeletConfig};
use crate::tokens::discovery::{configuration, key_set};

/// Pause between attempts to reach the store at start-up.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Watches end this long before connections are drained, so that their clients have moved on.
const WATCH_DRAIN: Duration = Duration::from_millis(200);

/// A store for some built-in resources alone.
pub struct Elsewhere {
    pub store: Arc<dyn Store>,
    /// Groups and names of the resources whose objects lie there.
    pub resources: Vec<(String, String)>,
}

/// Everything a server is started with.
pub struct Options {
    pub store: Arc<dyn Store>,
    /// Stores besides it.
    pub elsewhere: Vec<Elsewhere>,
    pub bind: SocketAddr,
    pub tls: Source,
    pub spoken: Spoken,
    /// Identity, permission and start-up objects.
    pub meaning: bootstrap::Options,
    pub networks: ServiceNetworks,
    pub node_ports: PortRange,
    pub kubelet: KubeletConfig,
    pub max_readonly_inflight: usize,
    pub max_mutating_inflight: usize,
    pub request_timeout: Duration,
    /// What a watch lasts at least, unless the client asks for less.
    pub min_request_timeout: Duration,
    /// How long requests are served on after the end was asked for, while `/readyz` says so.
    pub shutdown_delay: Duration,
    /// Deletions of one collection in flight at the same time.
    pub delete_collection_workers: usize,
    /// Which built-in versions are served.
    pub served: Served,
    /// Whether `/debug/pprof/` is there.
    pub profiling: bool,
    /// Where OIDC discovery sends for the keys; here when not given.
    pub jwks_uri: Option<String>,
    /// How long events live; zero for ever.
    pub event_ttl: Duration,
    /// How often old revisions are compacted; zero leaves that to somebody else.
    pub compaction_interval: Duration,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("bind {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Meaning(#[from] MeaningError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("shut down while waiting for the store")]
    Cancelled,
}

/// A running server.
pub struct Handle {
    /// Where it listens.
    pub address: SocketAddr,
    /// For in-process use: registry, caches, health.
    pub api: Arc<Api>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Returns when the server has ended after its token was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the API server task ended abnormally");
        }
    }
}

/// Admits everything; only in place until the chain, which needs the registry, has been built.
struct NotYet;

#[async_trait]
impl AdmissionChain for NotYet {
    async fn mutate(&self, _: &mut Admission<'_>) -> Result<(), StatusError> {
        Err(StatusError::service_unavailable("admission is not set up yet"))
    }

    async fn validate(&self, _: &Admission<'_>) -> Result<(), StatusError> {
        Err(StatusError::service_unavailable("admission is not set up yet"))
    }
}

/// Starts servers.
pub struct Server;

impl Server {
    /// Binds, loads what must be there, and serves until `shutdown` is cancelled, and a delay after it is over.
    pub async fn start(mut options: Options, shutdown: CancellationToken) -> Result<Handle, ServerError> {
        let bind = options.bind;
        let listener =
            Listener::bind(bind).await.map_err(|source| ServerError::Bind { address: bind, source })?;
        let address = listener.address;
        // Port 0 means any free one; others must hear which it became.
        options.meaning.secure_port = address.port();
        let running = CancellationToken::new();
        // A start that fails takes along what it has started.
        let guard = running.clone().drop_guard();
        let tls = server_config(options.tls.clone(), &options.spoken, running.clone())?;
        let calls = Arc::new(StoreMetrics::new()?);
        let metrics = Metrics::new(calls.clone())?;
        options.store = Arc::new(MeteredStore::new(options.store.clone(), calls.clone()));
        for other in &mut options.elsewhere {
            other.store = Arc::new(MeteredStore::new(other.store.clone(), calls.clone()));
        }
        let registry = Arc::new(registry(&options, &running, &shutdown).await?);
        let allocators =
            Arc::new(Allocators::new(options.networks.clone(), options.node_ports, options.store.clone()));
        let kinds = Arc::new(Kinds::new(allocators.clone()));
        registry.install_builtin(&kinds, &options.served);
        let cluster: Arc<dyn ClusterWriter> = Cluster::new(&registry);
        let meaning = Arc::new(Meaning::build(&options.meaning, cluster.clone(), allocators)?);
        let admission = MeteredAdmission::new(meaning.admission.clone(), metrics.access.clone());
        registry.set_admission(Arc::new(admission));
        let api = Arc::new(api(
            &options,
            address,
            registry.clone(),
            cluster,
            &meaning,
            metrics,
            running.child_token(),
        ));
        spawn_background(&api, &meaning, &options, &api.shutdown);
        let (serving, delay, running) = (api.clone(), options.shutdown_delay, guard.disarm());
        let task = tokio::spawn(async move {
            let listener_shutdown = CancellationToken::new();
            let serve = listener.run(serving.clone(), tls, listener_shutdown.clone());
            let end = async {
                shutdown.cancelled().await;
                serving.health.set("shutdown", health::READY_ONLY, Some("process is shutting down"));
                tokio::time::sleep(delay).await;
                serving.shutdown.cancel();
                tokio::time::sleep(WATCH_DRAIN).await;
                listener_shutdown.cancel();
            };
            tokio::join!(serve, end);
            // Last: requests that are still answered read from the caches.
            running.cancel();
        });
        Ok(Handle { address, api, task })
    }
}

/// A registry that serves nothing yet, connected to all stores.
async fn registry(
    options: &Options,
    running: &CancellationToken,
    shutdown: &CancellationToken,
) -> Result<Registry, ServerError> {
    let hub = connect(&options.store, running, shutdown).await?;
    let mut registry = Registry::new(hub, Arc::new(NotYet), options.event_ttl)
        .with_collection_workers(options.delete_collection_workers);
    for other in &options.elsewhere {
        let hub = connect(&other.store, running, shutdown).await?;
        registry = registry.with_elsewhere(hub, &other.resources);
    }
    Ok(registry)
}

async fn connect(
    store: &Arc<dyn Store>,
    running: &CancellationToken,
    shutdown: &CancellationToken,
) -> Result<Arc<Hub>, ServerError> {
    loop {
        match Hub::start(store.clone(), running.clone()).await {
            Ok(hub) => return Ok(hub),
            Err(error) => tracing::warn!(%error, "the store does not answer yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(STORE_RETRY_DELAY) => {}
            () = shutdown.cancelled() => return Err(ServerError::Cancelled),
        }
    }
}

fn api(
    options: &Options,
    address: SocketAddr,
    registry: Arc<Registry>,
    cluster: Arc<dyn ClusterWriter>,
    meaning: &Meaning,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Api {
    let advertise = SocketAddr::new(options.meaning.advertise_address, address.port());
    let mut documents = token_documents(meaning, &advertise.to_string(), options.jwks_uri.as_deref());
    documents.insert("/configz".to_owned(), configz::document(options));
    Api {
        registry,
        cluster,
        authenticator: meaning.authenticator.clone(),
        authorizer: meaning.authorizer.clone(),
        subresources: Subresources {
            reviews: Some(meaning.reviews.clone()),
            kubelet: Kubelet::new(options.kubelet.clone()),
        },
        metrics_api: MetricsApi::default(),
        health: Health::default(),
        metrics,
        limits: Limits::new(
            options.max_readonly_inflight,
            options.max_mutating_inflight,
            options.request_timeout,
        ),
        discovery: Discovery::default(),
        openapi: OpenApi::default(),
        documents: ArcSwapOption::from_pointee(documents),
        advertise: advertise.to_string(),
        request_timeout: options.request_timeout,
        min_request_timeout: options.min_request_timeout,
        profiling: options.profiling,
        shutdown,
    }
}

fn token_documents(
    meaning: &Meaning,
    advertise: &str,
    jwks_uri: Option<&str>,
) -> BTreeMap<String, serde_json::Value> {
    let mut documents = BTreeMap::new();
    if let Some(issuer) = meaning.issuers.first() {
        let own = || format!("https://{advertise}/openid/v1/jwks");
        let jwks_uri = jwks_uri.map_or_else(own, str::to_owned);
        let path = "/.well-known/openid-configuration".to_owned();
        documents.insert(path, configuration(issuer, &jwks_uri, &meaning.keys));
        documents.insert("/openid/v1/jwks".to_owned(), key_set(&meaning.keys));
    }
    documents
}

fn spawn_background(api: &Arc<Api>, meaning: &Arc<Meaning>, options: &Options, shutdown: &CancellationToken) {
    api.health.set("log", health::ALL, None);
    follow_stores(api, options, shutdown);
    let hooks = [health::CUSTOM_RESOURCES, "poststarthook/rbac/bootstrap-roles"];
    for name in hooks {
        api.health.set(name, health::ALL, Some("not finished"));
    }
    let definitions = Definitions::new(api.registry.clone());
    let (api_, token) = (api.clone(), shutdown.clone());
    tokio::spawn(async move {
        let ready = || api_.health.set(hooks[0], health::ALL, None);
        definitions.run(ready, token).await;
    });
    let (api_, meaning_, token) = (api.clone(), meaning.clone(), shutdown.clone());
    tokio::spawn(async move {
        meaning_.bootstrap(&token).await;
        api_.health.set(hooks[1], health::ALL, None);
    });
    tokio::spawn(meaning.maintain(shutdown.clone()));
    tokio::spawn(upkeep::run(api.clone(), shutdown.clone()));
    let (registry, cluster) = (api.registry.clone(), api.cluster.clone());
    let api_ = api.clone();
    let all_served = move || api_.health.passes(health::CUSTOM_RESOURCES);
    tokio::spawn(bootstrap::api_services::run(registry, cluster, all_served, shutdown.clone()));
}

/// Each store is watched for whether it answers, and compacted.
fn follow_stores(api: &Arc<Api>, options: &Options, shutdown: &CancellationToken) {
    let others = options.elsewhere.iter().map(|other| &other.store);
    for (index, store) in std::iter::once(&options.store).chain(others).enumerate() {
        let checks = health::StoreChecks::new(index);
        api.health.set(&checks.everywhere, health::ALL, None);
        let (api_, store_, token) = (api.clone(), store.clone(), shutdown.clone());
        tokio::spawn(async move { health::follow_store(&api_.health, &checks, &*store_, token).await });
        if !options.compaction_interval.is_zero() {
            let (store, interval, token) = (store.clone(), options.compaction_interval, shutdown.clone());
            tokio::spawn(async move { compaction::run(store, interval, token).await });
        }
    }
}
