//! `/metrics` under upstream's names.

use std::time::Duration;

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry as Prometheus, TextEncoder,
};

use crate::cache::Hub;
use crate::contract::RequestInfo;

/// Upstream's buckets for request durations.
const DURATION_BUCKETS: [f64; 20] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0,
];

/// Everything that is counted.
pub struct Metrics {
    prometheus: Prometheus,
    requests: IntCounterVec,
    durations: HistogramVec,
    inflight: IntGaugeVec,
    long_running: IntGaugeVec,
    watchers: IntGaugeVec,
    objects: IntGaugeVec,
    storage_size: IntGauge,
    resident: IntGauge,
    panics: IntGauge,
}

impl Metrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let prometheus = Prometheus::new();
        let labels =
            ["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"];
        let requests = IntCounterVec::new(
            Opts::new("apiserver_request_total", "Requests by verb, resource and answer."),
            &labels,
        )?;
        let options =
            HistogramOpts::new("apiserver_request_duration_seconds", "Time until the answer began.")
                .buckets(DURATION_BUCKETS.to_vec());
        let durations = HistogramVec::new(options, &labels[..8])?;
        let gauge = |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            inflight: gauge(
                "apiserver_current_inflight_requests",
                "Requests being served.",
                &["request_kind"],
            )?,
            long_running: gauge(
                "apiserver_longrunning_requests",
                "Open long-running requests.",
                &["verb", "group", "resource"],
            )?,
            watchers: gauge("apiserver_registered_watchers", "Open watches.", &["group", "resource"])?,
            objects: gauge("apiserver_storage_objects", "Objects in the cache.", &["resource"])?,
            storage_size: IntGauge::new("apiserver_storage_size_bytes", "Bytes of the store on disk.")?,
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            panics: IntGauge::new(
                "apiserver_request_panics_total",
                "Requests that panicked and were contained.",
            )?,
            prometheus,
            requests,
            durations,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        self.prometheus.register(Box::new(self.requests.clone()))?;
        self.prometheus.register(Box::new(self.durations.clone()))?;
        for gauge in [&self.inflight, &self.long_running, &self.watchers, &self.objects] {
            self.prometheus.register(Box::new(gauge.clone()))?;
        }
        for gauge in [&self.storage_size, &self.resident, &self.panics] {
            self.prometheus.register(Box::new(gauge.clone()))?;
        }
        Ok(())
    }

    /// Counts one answered request.
    pub fn request(&self, info: &RequestInfo, dry_run: bool, code: u16, took: Duration) {
        let verb = info.verb.to_uppercase();
        let code = code.to_string();
        let dry_run = if dry_run { "All" } else { "" };
        let labels = [
            verb.as_str(),
            dry_run,
            &info.group,
            &info.version,
            &info.resource,
            &info.subresource,
            scope(info),
            "apiserver",
            &code,
        ];
        self.requests.with_label_values(&labels).inc();
        self.durations.with_label_values(&labels[..8]).observe(took.as_secs_f64());
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn enter(&self, is_mutating: bool) -> GaugeGuard {
        GaugeGuard::new(self.inflight.with_label_values(&[if is_mutating { "mutating" } else { "readOnly" }]))
    }

    /// Counts a long-running request until the guard is dropped.
    pub fn enter_long_running(&self, info: &RequestInfo) -> GaugeGuard {
        GaugeGuard::new(self.long_running.with_label_values(&[&info.verb, &info.group, &info.resource]))
    }

    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The text form; gauges that mirror other state are read now.
    pub async fn render(&self, hub: &Hub, registry: &crate::registry::Registry) -> String {
        for kind in registry.catalog.snapshot_arc().kinds() {
            let Some(storage) = &kind.storage else { continue };
            let name = if kind.group.is_empty() {
                kind.resource.clone()
            } else {
                format!("{}.{}", kind.resource, kind.group)
            };
            if storage.cache.is_ready() {
                self.objects.with_label_values(&[&name]).set(i(storage.cache.len()));
            }
            self.watchers
                .with_label_values(&[&kind.group, &kind.resource])
                .set(i(storage.cache.watcher_count()));
        }
        if let Ok(bytes) = hub.store.db_size_bytes().await {
            self.storage_size.set(bytes);
        }
        self.resident.set(resident_bytes().unwrap_or(0));
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.prometheus.gather(), &mut out) {
            tracing::warn!(%error, "encoding metrics failed");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

fn i(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
        (false, ..) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Holds a gauge up by one.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
