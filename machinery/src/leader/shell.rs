//! The requests and timers around [`Elector`].

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Action, Config, Elector, JITTER_FACTOR, LeaderError, Outcome, Record};

/// Runs for the Lease and, once it is held, runs `work` until the Lease is lost, the work ends, or `shutdown` is
/// cancelled. The token given to `work` is cancelled when it must stop; `run` waits for it to end.
///
/// # Errors
/// Only for a configuration that cannot work.
pub async fn run<F, W>(
    client: kube::Client,
    config: Config,
    shutdown: CancellationToken,
    work: F,
) -> Result<Outcome, LeaderError>
where
    F: FnOnce(CancellationToken) -> W,
    W: Future<Output = ()>,
{
    config.check()?;
    let api = Api::namespaced(client, &config.namespace);
    let mut candidate =
        Candidate { elector: Elector::new(&config), api, config, start: Instant::now(), fetched: None };
    if !candidate.acquire(&shutdown).await {
        return Ok(Outcome::Shutdown);
    }
    tracing::info!(lease = %candidate.config.lease_name, identity = %candidate.config.identity, "became leader");
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(work(stop.clone()));
    let outcome = tokio::select! {
        () = &mut work => Outcome::Finished,
        () = shutdown.cancelled() => Outcome::Shutdown,
        () = candidate.renew() => Outcome::Lost,
    };
    if outcome != Outcome::Finished {
        stop.cancel();
        work.await;
    }
    if outcome == Outcome::Lost {
        tracing::warn!(lease = %candidate.config.lease_name, "leadership lost");
    } else if candidate.config.release_on_cancel {
        candidate.release().await;
    }
    Ok(outcome)
}

struct Candidate {
    api: Api<Lease>,
    config: Config,
    elector: Elector,
    start: Instant,
    /// The Lease as last seen, for its resourceVersion and for what others wrote into its metadata.
    fetched: Option<Lease>,
}

impl Candidate {
    /// Tries until the Lease is held; false when shutdown came first.
    async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        loop {
            let attempt = tokio::time::timeout(self.config.renew_deadline, self.attempt());
            tokio::select! {
                () = shutdown.cancelled() => return false,
                held = attempt => if held == Ok(true) { return true },
            }
            let spread = rand::random_range(1.0..1.0 + JITTER_FACTOR);
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(self.config.retry_period.mul_f64(spread)) => {}
            }
        }
    }

    /// Renews until that fails for as long as the renew deadline.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if self.elector.is_leader() && Instant::now() < deadline => {}
                _ => return,
            }
        }
    }

    /// One try to take or renew the Lease.
    async fn attempt(&mut self) -> bool {
        match self.try_once().await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(lease = %self.config.lease_name, %error, "lease request failed");
                // What is known may be stale: fetch before the next try.
                self.fetched = None;
                false
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        // A leader that knows the Lease writes without reading it first; a conflict then makes it read.
        if self.fetched.is_none() || !self.elector.is_leader() {
            self.fetched = self.api.get_opt(&self.config.lease_name).await?;
        }
        let current = self.fetched.as_ref().map(record_of);
        let mono = self.start.elapsed();
        let lease = match self.elector.decide(current.as_ref(), mono, Timestamp::now()) {
            Action::Wait => return Ok(false),
            Action::Create(record) => self.api.create(&PostParams::default(), &self.lease(record)).await?,
            Action::Update(record) => self.replace(record).await?,
        };
        self.elector.observe(&record_of(&lease), self.start.elapsed());
        self.fetched = Some(lease);
        Ok(self.elector.is_leader())
    }

    async fn replace(&self, record: Record) -> Result<Lease, kube::Error> {
        self.api.replace(&self.config.lease_name, &PostParams::default(), &self.lease(record)).await
    }

    async fn release(&mut self) {
        let Some(record) = self.elector.release(Timestamp::now()) else { return };
        match tokio::time::timeout(RELEASE_TIMEOUT, self.replace(record)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot release the lease; it expires by itself"),
            Err(_) => tracing::warn!("cannot release the lease in time; it expires by itself"),
        }
    }

    fn lease(&self, record: Record) -> Lease {
        let mut lease = self.fetched.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.config.lease_name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_default();
        write_record(spec, record);
        lease
    }
}

/// Longest wait for the last write of a process that is ending.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        lease_duration_secs: spec.lease_duration_seconds.unwrap_or(0),
        acquire_time: spec.acquire_time.map(|t| t.0),
        renew_time: spec.renew_time.map(|t| t.0),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn write_record(spec: &mut LeaseSpec, record: Record) {
    spec.holder_identity = Some(record.holder);
    spec.lease_duration_seconds = Some(record.lease_duration_secs);
    spec.acquire_time = record.acquire_time.map(MicroTime);
    spec.renew_time = record.renew_time.map(MicroTime);
    spec.lease_transitions = Some(record.transitions);
}
