//! The metrics of the loops, under the names of kube-controller-manager, so that its dashboards and alerts work.

use std::sync::LazyLock;

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

static ALL: LazyLock<Families> = LazyLock::new(Families::new);

struct Families {
    registry: Registry,
    depth: GaugeVec,
    adds: CounterVec,
    retries: CounterVec,
    queue_duration: HistogramVec,
    work_duration: HistogramVec,
    unfinished: GaugeVec,
    longest_running: GaugeVec,
    running: GaugeVec,
}

impl Families {
    fn new() -> Self {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, GaugeVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, CounterVec::new(Opts::new(name, help), labels))
        };
        let histogram = |name: &str, help: &str| {
            // Upstream's buckets: 1e-8 s to 1000 s by tens.
            let buckets = exponential_buckets(1e-8, 10.0, 12).unwrap_or_default();
            let opts = HistogramOpts::new(name, help).buckets(buckets);
            register(&registry, HistogramVec::new(opts, &["name"]))
        };
        Self {
            depth: gauge("workqueue_depth", "Keys waiting to be run.", &["name"]),
            adds: counter("workqueue_adds_total", "Keys added.", &["name"]),
            retries: counter("workqueue_retries_total", "Runs that failed and were queued again.", &["name"]),
            queue_duration: histogram("workqueue_queue_duration_seconds", "How long keys waited."),
            work_duration: histogram("workqueue_work_duration_seconds", "How long runs took."),
            unfinished: gauge(
                "workqueue_unfinished_work_seconds",
                "Sum of the ages of present runs.",
                &["name"],
            ),
            longest_running: gauge(
                "workqueue_longest_running_processor_seconds",
                "Age of the oldest present run.",
                &["name"],
            ),
            running: gauge("running_managed_controllers", "Controllers that run here.", &["name", "manager"]),
            registry,
        }
    }
}

/// Registers a family. The names are constants and distinct, so neither step can fail at run time.
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let family = made.expect("metric names and labels are constants checked by the test below");
    registry.register(Box::new(family.clone())).expect("metric names are distinct constants");
    family
}

/// The metrics of one controller's queue.
pub struct QueueMetrics {
    pub(super) depth: Gauge,
    pub(super) adds: Counter,
    pub(super) retries: Counter,
    pub(super) queue_duration: Histogram,
    pub(super) work_duration: Histogram,
    pub(super) unfinished: Gauge,
    pub(super) longest_running: Gauge,
}

impl QueueMetrics {
    /// The metrics under the label `name`.
    pub fn of(name: &str) -> Self {
        let name = &[name];
        Self {
            depth: ALL.depth.with_label_values(name),
            adds: ALL.adds.with_label_values(name),
            retries: ALL.retries.with_label_values(name),
            queue_duration: ALL.queue_duration.with_label_values(name),
            work_duration: ALL.work_duration.with_label_values(name),
            unfinished: ALL.unfinished.with_label_values(name),
            longest_running: ALL.longest_running.with_label_values(name),
        }
    }
}

/// Marks a controller as running here or not.
pub fn set_running(controller: &str, running: bool) {
    let gauge = ALL.running.with_label_values(&[controller, "kube-controller-manager"]);
    gauge.set(if running { 1.0 } else { 0.0 });
}

/// The families every controller may add its own to.
pub fn registry() -> &'static Registry {
    &ALL.registry
}

/// All metrics in Prometheus' text format, those of the process' clients among them.
pub fn render() -> String {
    let mut out = Vec::new();
    let mut families = ALL.registry.gather();
    families.extend(machinery::client::requests::gather());
    if let Err(error) = TextEncoder::new().encode(&families, &mut out) {
        tracing::warn!(%error, "metrics could not be encoded");
    }
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn upstreams_names_are_exported() {
        super::QueueMetrics::of("some").adds.inc();
        super::set_running("some", true);
        let text = super::render();
        for name in ["workqueue_adds_total", "workqueue_depth", "running_managed_controllers"] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
