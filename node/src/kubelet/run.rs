//! Puts a kubelet together and runs it: connects to the runtime, registers the node, follows the pods bound to
//! it, serves clients. Ending it leaves every container running.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use machinery::client::watch::lasting;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cgroups::{Cgroups, is_unified, limits_swap};
use super::cluster::events::Recorder;
use super::cluster::objects::{ObjectRef, Objects};
use super::cluster::services::Services;
use super::config::Config;
use super::cri::{CriError, Runtime};
use super::csi::Plugins;
use super::devices::manager::Manager as DeviceManager;
use super::eviction::{self, Pressure};
use super::images::Images;
use super::images::providers::{ProviderError, Providers};
use super::node::facts::Facts;
use super::node::{lease, reporter::Reporter};
use super::pod::spec;
use super::runtime_class::RuntimeClasses;
use super::server::auth::Gate;
use super::server::listen::{Door, serve, serve_healthz};
use super::server::routes::Server;
use super::server::tls::{Serving, TlsError, read_key_pair, self_signed, server_config};
use super::stats::summary::Collector;
use super::volumes::Volumes;
use super::volumes::layout::Layout;
use super::worker::pleg::{self, Health};
use super::worker::{Context, Pool, PoolEvent};

/// Pause before a runtime that does not answer is tried again.
const CONNECT_RETRY: Duration = Duration::from_millis(500);

/// The kubelet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folders cannot be made.
    #[error("cannot make {path}: {source}")]
    Folder {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server cannot serve TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server's port cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Programs for registries' credentials cannot be used.
    #[error(transparent)]
    Providers(#[from] ProviderError),
    /// The token fired before the runtime answered.
    #[error("stopped before the runtime answered: {0}")]
    Stopped(CriError),
}

/// A running kubelet.
pub struct Kubelet {
    /// Its pods.
    pub pool: Arc<Pool>,
    /// The certificate of its server, to be replaced when it is renewed.
    pub serving: Arc<Serving>,
    tasks: JoinSet<()>,
}

impl Kubelet {
    /// Waits until everything has ended, after the token fired.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
        self.pool.close().await;
    }
}

async fn connect(endpoint: &str, shutdown: &CancellationToken) -> Result<Runtime, StartError> {
    loop {
        let error = match Runtime::connect(endpoint).await {
            Ok(runtime) => return Ok(runtime),
            Err(error) => error,
        };
        tracing::info!(%error, "waiting for the container runtime");
        tokio::select! {
            () = tokio::time::sleep(CONNECT_RETRY) => {}
            () = shutdown.cancelled() => return Err(StartError::Stopped(error)),
        }
    }
}

fn make_folders(config: &Config) -> Result<(), StartError> {
    let layout = Layout::new(&config.root_dir);
    let folders = [
        layout.pods(),
        layout.plugins(),
        layout.plugins_registry(),
        layout.device_plugins(),
        layout.seccomp(),
        config.cert_dir.clone(),
        config.pod_logs_dir.clone(),
    ];
    for path in folders {
        std::fs::create_dir_all(&path)
            .map_err(|source| StartError::Folder { path: path.display().to_string(), source })?;
    }
    Ok(())
}

fn context(
    config: Config,
    client: Client,
    runtime: Runtime,
    providers: Providers,
    objects: Objects,
    shutdown: &CancellationToken,
) -> Arc<Context> {
    let facts = Facts::read(&config.root_dir, runtime.version());
    let recorder = Recorder::new(client.clone(), &config.node_name);
    let objects = Arc::new(objects);
    let csi = Arc::new(Plugins::new(client.clone(), &config.node_name));
    let layout = Layout::new(&config.root_dir);
    Arc::new(Context {
        devices: DeviceManager::new(layout.device_plugins()),
        volumes: Volumes::new(client.clone(), layout, Arc::clone(&objects), Arc::clone(&csi)),
        csi,
        objects,
        services: Services::watch(client.clone(), shutdown.clone()),
        images: Images::new(runtime.clone(), recorder.clone(), &config, providers),
        recorder,
        cgroups: Cgroups::new(&config),
        runtime_classes: RuntimeClasses::new(client.clone()),
        machine: super::cri::resources::Machine {
            memory_bytes: facts.memory_bytes,
            cfs_quota: config.cpu_cfs_quota,
            group_oom: is_unified() && !config.single_process_oom_kill,
            no_swap: limits_swap(),
        },
        apparmor: std::path::Path::new("/sys/kernel/security/apparmor").exists(),
        allocatable: RwLock::default(),
        network_error: RwLock::default(),
        addresses_changed: Notify::new(),
        relist: Notify::new(),
        runtime,
        client,
        config,
    })
}

/// Starts a kubelet. It runs until the token fires.
pub async fn start(
    config: Config,
    client: Client,
    shutdown: CancellationToken,
) -> Result<Kubelet, StartError> {
    make_folders(&config)?;
    let providers = Providers::read(
        config.credential_provider_config.as_deref(),
        config.credential_provider_bin_dir.as_deref(),
    )?;
    let runtime = connect(&config.runtime_endpoint, &shutdown).await?;
    let (objects, changes) = Objects::new(client.clone());
    let context = context(config, client, runtime, providers, objects, &shutdown);
    let health = Arc::new(Health::default());
    let pressure = Arc::new(Pressure::new(context.config.eviction_pressure_transition));
    let pool = Pool::new(context);
    let mut tasks = JoinSet::new();

    let serving = serve_clients(&pool, &health, &mut tasks, &shutdown).await?;
    tasks.spawn(pleg::run(Arc::clone(&pool), Arc::clone(&health), shutdown.clone()));
    tasks.spawn(eviction::run(Arc::clone(&pool), Arc::clone(&pressure), shutdown.clone()));
    tasks.spawn(super::worker::promises::keep(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::cgroup_limits::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::logs::rotate::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::images::gc::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::csi::registration::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::devices::server::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(super::static_pods::run(Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(refresh_volumes(Arc::clone(&pool), changes, shutdown.clone()));
    let reporter = Reporter::new(Arc::clone(&pool), health, pressure);
    tasks.spawn(be_a_node(reporter, Arc::clone(&pool), shutdown.clone()));
    tasks.spawn(follow_pods(Arc::clone(&pool), shutdown));
    Ok(Kubelet { pool, serving, tasks })
}

/// Registers, then reports and renews the lease.
async fn be_a_node(mut reporter: Reporter, pool: Arc<Pool>, shutdown: CancellationToken) {
    if reporter.register(&shutdown).await.is_none() {
        return;
    }
    let context = pool.context();
    context.recorder.node(false, "Starting", "Starting kubelet.".into());
    let renew = lease::run(
        context.client.clone(),
        context.config.node_name.clone(),
        || pool.node.read().node.as_ref().and_then(|n| n.metadata.uid.clone()),
        context.config.lease_duration,
        shutdown.clone(),
    );
    tokio::join!(renew, reporter.run(shutdown));
}

/// Feeds the pool from the API's pods bound to this node.
async fn follow_pods(pool: Arc<Pool>, shutdown: CancellationToken) {
    let context = Arc::clone(pool.context());
    let selector = format!("spec.nodeName={}", context.config.node_name);
    let api = Api::<Pod>::all(context.client.clone());
    let config = watcher::Config::default().fields(&selector);
    let mut stream = std::pin::pin!(lasting(api, config).default_backoff());
    let mut listed: Option<Vec<Pod>> = None;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = shutdown.cancelled() => return,
        };
        match event {
            None => return,
            Some(Err(error)) => tracing::warn!(%error, "the watch of pods was interrupted"),
            Some(Ok(watcher::Event::Init)) => listed = Some(Vec::new()),
            Some(Ok(watcher::Event::InitApply(pod))) => listed.get_or_insert_default().push(pod),
            Some(Ok(watcher::Event::InitDone)) => {
                let pods = listed.take().unwrap_or_default();
                let uids = pods.iter().map(|p| spec::uid(p).to_owned()).collect();
                for pod in pods {
                    pool.handle(PoolEvent::Apply(Arc::new(slim(pod))));
                }
                pool.handle(PoolEvent::Complete(uids));
            }
            Some(Ok(watcher::Event::Apply(pod))) => pool.handle(PoolEvent::Apply(Arc::new(slim(pod)))),
            Some(Ok(watcher::Event::Delete(pod))) => {
                pool.handle(PoolEvent::Delete(spec::uid(&pod).to_owned()))
            }
        }
    }
}

/// Brings files in volumes up to date when the objects they come from change.
async fn refresh_volumes(
    pool: Arc<Pool>,
    mut changes: mpsc::Receiver<ObjectRef>,
    shutdown: CancellationToken,
) {
    while let Some(Some(object)) = shutdown.run_until_cancelled(changes.recv()).await {
        pool.refresh_users(&object);
    }
}

/// Drops what no one here reads: memory per pod counts.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

async fn serve_clients(
    pool: &Arc<Pool>,
    health: &Arc<Health>,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<Arc<Serving>, StartError> {
    let config = &pool.context().config;
    let auth = config.server_auth.clone();
    let key = match (&auth.tls_cert_file, &auth.tls_key_file) {
        (Some(cert), Some(key)) => read_key_pair(cert, key)?,
        _ => self_signed(&config.hostname, &config.node_ips)?,
    };
    let serving = Serving::new(key);
    let tls = server_config(Arc::clone(&serving), auth.client_ca_file.as_deref())?;
    let door = Arc::new(Door {
        gate: Gate::new(pool.context().client.clone(), &config.node_name, auth),
        server: Server {
            pool: Arc::clone(pool),
            health: Arc::clone(health),
            configz: super::configz::value(config),
            summary: Collector::default(),
        },
    });
    let listener = bind(SocketAddr::new(config.address, config.port)).await?;
    tasks.spawn(serve(listener, tls, Arc::clone(&door), shutdown.clone()));
    if config.healthz_port != 0 {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], config.healthz_port))).await?;
        tasks.spawn(serve_healthz(listener, door, shutdown.clone()));
    }
    Ok(serving)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}
