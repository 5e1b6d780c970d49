//! Metrics under upstream's names.

use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use crate::network::view::Family;

/// The proxy's metrics, registered in a registry of their own.
pub struct Metrics {
    registry: Registry,
    /// Time to compute and write rules.
    pub sync: HistogramVec,
    /// The same, when the whole table was written.
    pub sync_full: HistogramVec,
    /// The same, when only differences were written.
    pub sync_partial: HistogramVec,
    /// Time from a change of an endpoint to its rules.
    pub programming: HistogramVec,
    /// When rules were last written.
    pub last_synced: GaugeVec,
    /// When a change last arrived.
    pub last_queued: GaugeVec,
    /// Endpoint changes that wait.
    pub endpoints_pending: Gauge,
    /// Endpoint changes seen.
    pub endpoints_total: Counter,
    /// Service changes that wait.
    pub services_pending: Gauge,
    /// Service changes seen.
    pub services_total: Counter,
    /// Transactions that the kernel refused.
    pub sync_failures: CounterVec,
    /// Failed removals of unused chains.
    pub cleanup_failures: CounterVec,
    /// Local traffic policy without local endpoint.
    pub without_local: GaugeVec,
    /// Answers of the health endpoint.
    pub healthz: CounterVec,
    /// Answers of the liveness endpoint.
    pub livez: CounterVec,
    /// Time to check UDP flows.
    pub conntrack: HistogramVec,
    /// UDP flows removed.
    pub conntrack_deleted: CounterVec,
}

const FAMILY: &[&str] = &["ip_family"];

/// Quarter seconds, then seconds to a minute, then coarser to five minutes: upstream's buckets.
fn programming_buckets() -> Vec<f64> {
    let mut buckets = vec![0.25, 0.5];
    buckets.extend((1..=59).map(f64::from));
    buckets.extend((0..12).map(|step| 60.0 + 5.0 * f64::from(step)));
    buckets.extend((0..7).map(|step| 120.0 + 30.0 * f64::from(step)));
    buckets
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let make = Make { registry: &registry };
        let milliseconds = exponential_buckets(0.001, 2.0, 15)?;
        let latency = |name, help| make.histogram(name, help, &milliseconds);
        Ok(Self {
            sync: latency("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds")?,
            sync_full: latency(
                "sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
            )?,
            sync_partial: latency(
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
            )?,
            programming: make.histogram(
                "network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &programming_buckets(),
            )?,
            last_synced: make.gauges(
                "sync_proxy_rules_last_timestamp_seconds",
                "Last successful sync",
                FAMILY,
            )?,
            last_queued: make.gauges(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "Last queued sync",
                FAMILY,
            )?,
            endpoints_pending: make
                .gauge("sync_proxy_rules_endpoint_changes_pending", "Pending Endpoint changes")?,
            endpoints_total: make
                .counter("sync_proxy_rules_endpoint_changes_total", "Endpoint changes seen")?,
            services_pending: make
                .gauge("sync_proxy_rules_service_changes_pending", "Pending Service changes")?,
            services_total: make.counter("sync_proxy_rules_service_changes_total", "Service changes seen")?,
            sync_failures: make.counters(
                "sync_proxy_rules_nftables_sync_failures_total",
                "Refused syncs",
                FAMILY,
            )?,
            cleanup_failures: make.counters(
                "sync_proxy_rules_nftables_cleanup_failures_total",
                "Failed removals of unused chains",
                FAMILY,
            )?,
            without_local: make.gauges(
                "sync_proxy_rules_no_local_endpoints_total",
                "Service ports with a Local traffic policy and no local endpoint",
                &["traffic_policy", "ip_family"],
            )?,
            healthz: make.counters("proxy_healthz_total", "Answers of /healthz by status", &["code"])?,
            livez: make.counters("proxy_livez_total", "Answers of /livez by status", &["code"])?,
            conntrack: latency(
                "conntrack_reconciler_sync_duration_seconds",
                "Time to check UDP flows in seconds",
            )?,
            conntrack_deleted: make.counters(
                "conntrack_reconciler_deleted_entries_total",
                "UDP flows removed",
                FAMILY,
            )?,
            registry,
        })
    }

    /// Observes a duration for both families: one transaction writes both.
    pub fn observe_both(histogram: &HistogramVec, seconds: f64) {
        for family in Family::ALL {
            histogram.with_label_values(&[family.label()]).observe(seconds);
        }
    }

    /// Sets a gauge for both families.
    pub fn set_both(gauge: &GaugeVec, value: f64) {
        for family in Family::ALL {
            gauge.with_label_values(&[family.label()]).set(value);
        }
    }

    /// Counts one for both families.
    pub fn count_both(counter: &CounterVec) {
        for family in Family::ALL {
            counter.with_label_values(&[family.label()]).inc();
        }
    }

    /// The text form.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

struct Make<'a> {
    registry: &'a Registry,
}

type Made<T> = Result<T, prometheus::Error>;

impl Make<'_> {
    fn add<T: prometheus::core::Collector + Clone + 'static>(&self, made: T) -> Made<T> {
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("kubeproxy")
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Made<HistogramVec> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, FAMILY)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<GaugeVec> {
        self.add(GaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<CounterVec> {
        self.add(CounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Made<Gauge> {
        self.add(Gauge::with_opts(Self::opts(name, help))?)
    }

    fn counter(&self, name: &str, help: &str) -> Made<Counter> {
        self.add(Counter::with_opts(Self::opts(name, help))?)
    }
}
