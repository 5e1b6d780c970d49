//! Objects a cluster starts with, and those that follow the live servers.
//!
//! Everything here is idempotent and may run on several servers at once: objects are created where missing, never
//! replaced; whoever comes second finds them. Does not decide when requests are served: the caller waits for
//! [`run`] where readiness needs it.

pub mod api_services;
pub mod authentication;
pub mod endpoints;
pub mod ensure;
pub mod identity;
pub mod meaning;
pub mod objects;
pub mod rbac;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use machinery::status::StatusError;
use tokio_util::sync::CancellationToken;

pub use meaning::{Meaning, MeaningError, Options};

use crate::alloc::{Allocators, repair};
use crate::contract::ClusterWriter;

/// How this server presents itself and what start-up objects say.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unique among the servers of the cluster; the host name does.
    pub server_name: String,
    /// Where clients inside the cluster reach this server.
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    /// The port of the `kubernetes` service.
    pub service_port: u16,
    /// PEM of `--client-ca-file`, empty when there is none.
    pub client_ca: String,
    pub request_header: authentication::RequestHeader,
}

/// How often the own lease is renewed and the endpoints are compared.
const HEARTBEAT: Duration = Duration::from_secs(identity::RENEW_SECS);
/// How often allocations are compared with the services.
const REPAIR_EVERY: u32 = 12;
/// Pause between attempts while the store is not ready yet.
const RETRY: Duration = Duration::from_millis(250);

/// Creates what is missing; tries again until it worked or the server is shut down.
pub async fn run(
    cluster: &dyn ClusterWriter,
    allocators: &Allocators,
    config: &Config,
    shutdown: &CancellationToken,
) {
    while let Err(error) = once(cluster, allocators, config).await {
        tracing::warn!(%error, "start-up objects could not be written; trying again");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn once(
    cluster: &dyn ClusterWriter,
    allocators: &Allocators,
    config: &Config,
) -> Result<(), StatusError> {
    objects::ensure(cluster, allocators).await?;
    rbac::ensure(cluster).await?;
    authentication::ensure(cluster, config).await?;
    identity::renew(cluster, config).await?;
    endpoints::ensure_service(cluster, allocators, config).await?;
    // A store that was written by others may hold services whose ports nobody has claimed yet.
    repair::run(cluster, allocators, &mut repair::Leaks::default()).await;
    endpoints::reconcile(cluster, config).await
}

/// Keeps the lease, the endpoints and the allocations right until shutdown, then takes this server out.
pub async fn maintain(
    cluster: Arc<dyn ClusterWriter>,
    allocators: Arc<Allocators>,
    config: Config,
    shutdown: CancellationToken,
) {
    let mut beats = 0u32;
    let mut leaks = repair::Leaks::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        if let Err(error) = beat(cluster.as_ref(), &allocators, &config).await {
            tracing::warn!(%error, "this server's lease or the kubernetes endpoints could not be renewed");
        }
        beats = beats.wrapping_add(1);
        if beats.is_multiple_of(REPAIR_EVERY) {
            repair::run(cluster.as_ref(), &allocators, &mut leaks).await;
        }
    }
    identity::resign(cluster.as_ref(), &config).await;
    if let Err(error) = endpoints::reconcile(cluster.as_ref(), &config).await {
        tracing::warn!(%error, "this server stays in the kubernetes endpoints until the others notice");
    }
}

async fn beat(
    cluster: &dyn ClusterWriter,
    allocators: &Allocators,
    config: &Config,
) -> Result<(), StatusError> {
    identity::renew(cluster, config).await?;
    endpoints::ensure_service(cluster, allocators, config).await?;
    endpoints::reconcile(cluster, config).await
}
