//! The kubelet's own metrics, under upstream's names.

use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, exponential_buckets,
};

use super::pod::spec;
use super::probes::counter::Kind;
use super::probes::runner::Answer;

struct Metrics {
    registry: Registry,
    probes: IntCounterVec,
    probe_durations: HistogramVec,
    operations: HistogramVec,
    operations_total: IntCounterVec,
    operation_errors: IntCounterVec,
    started_pods: IntCounterVec,
    started_pods_errors: IntCounterVec,
    started_containers: IntCounterVec,
    started_containers_errors: IntCounterVec,
    evictions: IntCounterVec,
    relist: HistogramVec,
    running: IntGaugeVec,
    running_pods: IntGaugeVec,
}

/// Registration of metrics with fixed names cannot fail but by a duplicate, which the test below would show.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

fn histogram(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let buckets = exponential_buckets(0.005, 2.0, 14).unwrap_or_default();
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)
        .unwrap_or_else(|e| unreachable!("{name}: {e}"))
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).unwrap_or_else(|e| unreachable!("{name}: {e}"))
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).unwrap_or_else(|e| unreachable!("{name}: {e}"))
}

impl Metrics {
    fn new() -> Self {
        let operation = &["operation_type"];
        let metrics = Self {
            registry: Registry::new(),
            probes: counter(
                "prober_probe_total",
                "Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            ),
            probe_durations: histogram(
                "prober_probe_duration_seconds",
                "Duration in seconds for a probe response.",
                &["probe_type", "container", "pod", "namespace"],
            ),
            operations: histogram(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
                operation,
            ),
            operations_total: counter(
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                operation,
            ),
            operation_errors: counter(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                operation,
            ),
            started_pods: counter("kubelet_started_pods_total", "Cumulative number of pods started", &[]),
            started_pods_errors: counter(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
                &[],
            ),
            started_containers: counter(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &[],
            ),
            started_containers_errors: counter(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &[],
            ),
            evictions: counter(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                &["eviction_signal"],
            ),
            relist: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "Duration in seconds for relisting pods in PLEG.",
                &[],
            ),
            running: gauge(
                "kubelet_running_containers",
                "Number of containers currently running",
                &["container_state"],
            ),
            running_pods: gauge(
                "kubelet_running_pods",
                "Number of pods that have a running pod sandbox",
                &[],
            ),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let all: [Box<dyn Collector>; 11] = [
            Box::new(self.operations.clone()),
            Box::new(self.operations_total.clone()),
            Box::new(self.operation_errors.clone()),
            Box::new(self.started_pods.clone()),
            Box::new(self.started_pods_errors.clone()),
            Box::new(self.started_containers.clone()),
            Box::new(self.started_containers_errors.clone()),
            Box::new(self.evictions.clone()),
            Box::new(self.relist.clone()),
            Box::new(self.running.clone()),
            Box::new(self.running_pods.clone()),
        ];
        for collector in all {
            if let Err(error) = self.registry.register(collector) {
                tracing::error!(%error, "a metric is registered twice");
            }
        }
    }
}

/// Counts one probe and how long it took.
pub fn count_probe(pod: &Pod, container: &str, kind: Kind, answer: &Answer, took: Duration) {
    let result = match answer {
        Answer::Success => "successful",
        Answer::Failure(_) => "failed",
        Answer::Unknown(_) => "unknown",
    };
    let labels = [kind.word(), result, container, spec::name(pod), spec::namespace(pod), spec::uid(pod)];
    METRICS.probes.with_label_values(&labels).inc();
    let labels = [kind.word(), container, spec::name(pod), spec::namespace(pod)];
    METRICS.probe_durations.with_label_values(&labels).observe(took.as_secs_f64());
}

/// Forgets a pod's probes.
pub fn forget_probes(pod: &Pod, container: &str) {
    for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
        for result in ["successful", "failed", "unknown"] {
            let labels =
                [kind.word(), result, container, spec::name(pod), spec::namespace(pod), spec::uid(pod)];
            // Not having counted it is fine.
            let _ = METRICS.probes.remove_label_values(&labels);
        }
        let labels = [kind.word(), container, spec::name(pod), spec::namespace(pod)];
        let _ = METRICS.probe_durations.remove_label_values(&labels);
    }
}

/// Records one operation of the runtime.
pub fn observe_operation(operation: &str, took: Duration, ok: bool) {
    METRICS.operations.with_label_values(&[operation]).observe(took.as_secs_f64());
    METRICS.operations_total.with_label_values(&[operation]).inc();
    if !ok {
        METRICS.operation_errors.with_label_values(&[operation]).inc();
    }
    let (all, failed) = match operation {
        "run_podsandbox" => (&METRICS.started_pods, &METRICS.started_pods_errors),
        "start_container" => (&METRICS.started_containers, &METRICS.started_containers_errors),
        _ => return,
    };
    all.with_label_values::<&str>(&[]).inc();
    if !ok {
        failed.with_label_values::<&str>(&[]).inc();
    }
}

/// Counts one eviction, under the signal that caused it.
pub fn count_eviction(signal: &str) {
    METRICS.evictions.with_label_values(&[signal]).inc();
}

/// Records one list of the runtime.
pub fn observe_relist(took: Duration) {
    METRICS.relist.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
}

/// Sets the number of pods with a sandbox, and of running and ended containers.
pub fn set_containers(pods: i64, running: i64, exited: i64) {
    METRICS.running_pods.with_label_values::<&str>(&[]).set(pods);
    METRICS.running.with_label_values(&["running"]).set(running);
    METRICS.running.with_label_values(&["exited"]).set(exited);
}

/// `/metrics` in the text format.
pub fn text() -> String {
    encode(&METRICS.registry.gather())
}

/// `/metrics/probes` in the text format.
pub fn probes_text() -> String {
    encode(&[METRICS.probes.collect(), METRICS.probe_durations.collect()].concat())
}

fn encode(families: &[prometheus::proto::MetricFamily]) -> String {
    prometheus::TextEncoder::new().encode_to_string(families).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_there_once() {
        observe_operation("run_podsandbox", Duration::from_millis(3), false);
        observe_relist(Duration::from_millis(1));
        set_containers(1, 1, 2);
        count_eviction("memory.available");
        let text = text();
        for name in [
            "kubelet_runtime_operations_duration_seconds_count",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_pleg_relist_duration_seconds_count",
            "kubelet_running_containers{container_state=\"exited\"} 2",
            "kubelet_started_pods_errors_total 1",
            "kubelet_running_pods 1",
            "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        let pod = Pod::default();
        count_probe(&pod, "c", Kind::Liveness, &Answer::Success, Duration::from_millis(2));
        assert!(probes_text().contains("prober_probe_total{"));
        assert!(probes_text().contains("prober_probe_duration_seconds_count{"));
        forget_probes(&pod, "c");
        assert!(!probes_text().contains("container=\"c\""));
    }
}
