//! The API over HTTP: listener, handler chain, routing, forms of answers.
//!
//! Reading order: [`request_info`], [`negotiate`] read requests; [`body`], [`encode`], [`watch`], [`websocket`], [`respond`] write
//! answers; [`resources`] maps verbs onto the registry; [`discovery`], [`openapi`], [`health`], [`profile`] are the
//! rest of the surface; [`chain`] is what every request passes through; [`listener`] owns sockets and TLS; [`upkeep`] lets
//! go of what requests left behind.

pub mod body;
pub mod chain;
pub mod configz;
pub mod discovery;
pub mod encode;
pub mod health;
pub mod impersonate;
pub mod limits;
pub mod listener;
pub mod negotiate;
pub mod openapi;
pub mod profile;
pub mod request_info;
pub mod resources;
pub mod respond;
pub mod routes;
pub mod tls;
pub mod upkeep;
pub mod version;
pub mod watch;
pub mod websocket;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

use crate::contract::{Authenticator, Authorizer, ClusterWriter};
use crate::metrics::Metrics;
use crate::metrics_api::MetricsApi;
use crate::registry::Registry;
use crate::subresources::Subresources;

/// Everything a request handler reaches.
pub struct Api {
    pub registry: Arc<Registry>,
    pub cluster: Arc<dyn ClusterWriter>,
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub subresources: Subresources,
    pub metrics_api: MetricsApi,
    pub health: health::Health,
    pub metrics: Metrics,
    pub limits: limits::Limits,
    pub discovery: discovery::Discovery,
    pub openapi: openapi::OpenApi,
    /// Documents served as they are, by path (service account keys and configuration).
    pub documents: ArcSwapOption<std::collections::BTreeMap<String, serde_json::Value>>,
    /// Address and port that clients without a route of their own should use.
    pub advertise: String,
    pub request_timeout: Duration,
    /// What a watch lasts at least, unless the client asks for less.
    pub min_request_timeout: Duration,
    /// Whether `/debug/pprof/` is there.
    pub profiling: bool,
    /// Cancelled when watches should end.
    pub shutdown: CancellationToken,
}
