//! `/metrics` under upstream's names.
//!
//! [`requests`] and [`access`] are counted as they happen, the store's calls by [`crate::storage::metered`];
//! [`mirror`] reads what is kept elsewhere when the page is asked for.

mod access;
mod labelled;
mod mirror;
pub mod requests;
mod sweep;

use std::sync::Arc;

use prometheus::{
    Encoder as _, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry as Prometheus, TextEncoder,
};

pub use access::{Access, MeteredAdmission};
pub use labelled::Labelled;
use mirror::Mirror;
pub use requests::{Answered, GaugeGuard, Requests, WatchCounters};
pub use sweep::sweep;

use crate::cache::Hub;
use crate::registry::Registry;
use crate::registry::catalog::Snapshot;
use crate::storage::metered::StoreMetrics;

/// Upstream's buckets for request durations.
pub const DURATION_BUCKETS: [f64; 20] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0,
];

/// Everything that is counted.
pub struct Metrics {
    prometheus: Prometheus,
    pub requests: Requests,
    pub access: Arc<Access>,
    mirror: Mirror,
    store: Arc<StoreMetrics>,
    panics: IntCounter,
    tls_errors: IntCounter,
}

impl Metrics {
    /// All families, the store's among them.
    pub fn new(store: Arc<StoreMetrics>) -> Result<Self, prometheus::Error> {
        let prometheus = Prometheus::new();
        store.register(&prometheus)?;
        let family = Family(&prometheus);
        Ok(Self {
            requests: Requests::new(&family)?,
            access: Arc::new(Access::new(&family)?),
            mirror: Mirror::new(&family)?,
            panics: family
                .count("apiserver_request_panics_total", "Requests that panicked and were contained.")?,
            tls_errors: family
                .count("apiserver_tls_handshake_errors_total", "TLS handshakes that failed.")?,
            prometheus,
            store,
        })
    }

    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts a client whose handshake failed.
    pub fn tls_failed(&self) {
        self.tls_errors.inc();
    }

    /// Drops what was counted about kinds that are no longer served.
    pub fn forget_unserved(&self, served: &Snapshot) {
        self.requests.forget_unserved(served);
        self.mirror.forget_unserved(served);
        self.store.forget_unserved(served);
    }

    /// The text form.
    pub async fn render(&self, hub: &Hub, registry: &Registry) -> String {
        self.mirror.refresh(registry);
        if let Ok(bytes) = hub.store.db_size_bytes().await {
            self.mirror.storage_size.set(bytes);
        }
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.prometheus.gather(), &mut out) {
            tracing::warn!(%error, "encoding metrics failed");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Makes registered families.
pub struct Family<'a>(pub &'a Prometheus);

impl Family<'_> {
    fn keep<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: C,
    ) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, prometheus::Error> {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
    }

    fn count(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::new(name, help)?)
    }

    fn int(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.keep(Gauge::new(name, help)?)
    }
}

/// Bucket bounds, each `factor` times the one before.
pub fn exponential(start: f64, factor: f64, count: i32) -> Vec<f64> {
    (0..count).map(|i| start * factor.powi(i)).collect()
}
