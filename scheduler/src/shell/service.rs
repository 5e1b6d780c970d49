//! The whole scheduler in one call: informers, core, executor, leader election and the health server.
//!
//! Owns how the parts are put together. Informers run from the start, so that a new leader decides at once; pods
//! are scheduled only while the lease is held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::config::types::GoDuration;
use crate::core::scheduler::Scheduler;

use super::api::Api;
use super::events::Recorder;
use super::execute::{Executor, ProfileName};
use super::extender::{ExtenderError, HttpExtenders};
use super::metrics::Metrics;
use super::run::{Loop, inbox, start_informers};
use super::server::{self, State};
use super::tls::{self, TlsError};

/// Where and how to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Unique among candidates for the lease.
    pub identity: String,
    /// Where health and metrics are served; nowhere if absent.
    pub address: Option<SocketAddr>,
    /// Certificate and key files of the server; a certificate is made if absent.
    pub tls_files: Option<(String, String)>,
    /// Paths that anyone may read (`--authorization-always-allow-paths`).
    pub open_paths: Vec<String>,
    /// Decides ties; the same seed and the same events give the same decisions.
    pub seed: u64,
}

/// Why the scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Extender(#[from] ExtenderError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot serve health on {address}: {source}")]
    Serve { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Leader(#[from] machinery::leader::LeaderError),
    #[error("scheduling broke off: {0}; start the scheduler again")]
    Broken(tokio::task::JoinError),
}

/// Runs a scheduler until the shutdown. Needs a multi-threaded runtime where extenders are configured.
///
/// # Errors
/// When a part cannot be set up, or when the core panics; other trouble is retried and logged.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new()?);
    let ready = Arc::new(AtomicBool::new(false));
    let leading = Arc::new(AtomicBool::new(!settings.file.leader_election.leader_elect));
    let mut tasks = JoinSet::new();
    let (out, messages) = inbox();
    let api = Api::new(client.clone());
    let mut core = Scheduler::new(settings.profiles.clone(), settings.backoff, options.seed);
    let extenders = extenders_of(&settings, &api)?;
    if let Some(extenders) = &extenders {
        core.set_extenders(Box::new(extenders.clone()));
    }
    let recorder = Recorder::start(client.clone(), options.identity.clone());
    let names: Arc<[ProfileName]> =
        settings.profiles.iter().map(|p| ProfileName(p.scheduler_name.clone())).collect();
    let executor = Executor::new(api, out.clone(), recorder, names, metrics.clone(), extenders);
    start_informers(&client, &out, &shutdown, &mut tasks);
    if let Some(address) = options.address {
        let files = options.tls_files.as_ref().map(|(c, k)| (c.as_str(), k.as_str()));
        let tls = tls::server_config(files)?;
        let (metrics, ready, client) = (metrics.clone(), ready.clone(), client.clone());
        let state = State { metrics, ready, client, open_paths: options.open_paths.into() };
        let stop = shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = server::serve(address, tls, state, stop).await {
                tracing::error!(%address, %error, "cannot serve health and metrics");
            }
        });
    }
    let core_loop = Loop::new(core, messages, executor, metrics, leading.clone(), ready);
    let mut working = tokio::spawn(core_loop.run(shutdown.clone()));
    // Whoever cannot schedule any more must not keep the lease from those who can.
    let broken = async {
        match (&mut working).await {
            Err(error) => error,
            Ok(()) => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        elected = lead(client, &settings, options.identity, leading, shutdown.clone()) => elected,
        error = broken => Err(RunError::Broken(error)),
    };
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    if !working.is_finished() {
        // It ends with the shutdown; how, is of no use any more.
        let _ = working.await;
    }
    outcome
}

fn extenders_of(settings: &Settings, api: &Api) -> Result<Option<Arc<HttpExtenders>>, ExtenderError> {
    if settings.file.extenders.is_empty() {
        return Ok(None);
    }
    HttpExtenders::new(settings.file.extenders.clone(), api.clone()).map(|e| Some(Arc::new(e)))
}

/// Holds the lease, again and again, until the shutdown; `leading` says whether it is held.
async fn lead(
    client: kube::Client,
    settings: &Settings,
    identity: String,
    leading: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let election = &settings.file.leader_election;
    if !election.leader_elect {
        shutdown.cancelled().await;
        return Ok(());
    }
    let duration = |d: GoDuration| Duration::from_nanos(u64::try_from(d.0).unwrap_or(0));
    let mut config =
        machinery::leader::Config::new(&election.resource_namespace, &election.resource_name, identity);
    config.lease_duration = duration(election.lease_duration);
    config.renew_deadline = duration(election.renew_deadline);
    config.retry_period = duration(election.retry_period);
    loop {
        let flag = leading.clone();
        let work = |stop: CancellationToken| async move {
            flag.store(true, Ordering::SeqCst);
            stop.cancelled().await;
            flag.store(false, Ordering::SeqCst);
        };
        let outcome = machinery::leader::run(client.clone(), config.clone(), shutdown.clone(), work).await?;
        if outcome == machinery::leader::Outcome::Shutdown {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// Lists one node and one pod; watches of them say nothing until the server ends them.
    fn client() -> kube::Client {
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            let items = match request.uri().path() {
                "/api/v1/nodes" => json!([{"metadata": {"name": "n", "uid": "n"},
                    "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "1"}}}]),
                "/api/v1/pods" => json!([{"metadata": {"name": "p", "namespace": "ns", "uid": "p"}}]),
                _ => json!([]),
            };
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(list.into_bytes())))
        });
        kube::Client::new(service, "default")
    }

    /// An extender on a runtime of one thread is a core that panics at the first pod.
    #[tokio::test]
    async fn a_core_that_panics_ends_the_scheduler() {
        let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
            leaderElection: {leaderElect: false}\nextenders: [{urlPrefix: 'http://127.0.0.1:1', filterVerb: f}]\n";
        let settings = Settings::parse(text).expect("a configuration");
        let running = run(client(), settings, Options::default(), CancellationToken::new());
        let ended = tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends");
        assert!(matches!(&ended, Err(RunError::Broken(error)) if error.is_panic()), "{ended:?}");
    }
}
