//! The kubelet's own metrics, under upstream's names.

use std::sync::LazyLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, exponential_buckets,
};

use super::pod::spec;
use super::probes::counter::Kind;
use super::probes::runner::Answer;

struct Metrics {
    registry: Registry,
    probes: IntCounterVec,
    operations: HistogramVec,
    operation_errors: IntCounterVec,
    relist: HistogramVec,
    running: IntGaugeVec,
}

/// Registration of metrics with fixed names cannot fail but by a duplicate, which the test below would show.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.005, 2.0, 14).unwrap_or_default();
    let histogram = |name: &str, help: &str, labels: &[&str]| {
        HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.clone()), labels)
            .unwrap_or_else(|e| unreachable!("{name}: {e}"))
    };
    let counter = |name: &str, help: &str, labels: &[&str]| {
        IntCounterVec::new(Opts::new(name, help), labels).unwrap_or_else(|e| unreachable!("{name}: {e}"))
    };
    let metrics = Metrics {
        registry: Registry::new(),
        probes: counter(
            "prober_probe_total",
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
            &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
        ),
        operations: histogram(
            "kubelet_runtime_operations_duration_seconds",
            "Duration in seconds of runtime operations. Broken down by operation type.",
            &["operation_type"],
        ),
        operation_errors: counter(
            "kubelet_runtime_operations_errors_total",
            "Cumulative number of runtime operation errors by operation type.",
            &["operation_type"],
        ),
        relist: histogram(
            "kubelet_pleg_relist_duration_seconds",
            "Duration in seconds for relisting pods in PLEG.",
            &[],
        ),
        running: IntGaugeVec::new(
            Opts::new("kubelet_running_containers", "Number of containers currently running"),
            &["container_state"],
        )
        .unwrap_or_else(|e| unreachable!("kubelet_running_containers: {e}")),
    };
    let all: [Box<dyn prometheus::core::Collector>; 4] = [
        Box::new(metrics.operations.clone()),
        Box::new(metrics.operation_errors.clone()),
        Box::new(metrics.relist.clone()),
        Box::new(metrics.running.clone()),
    ];
    for collector in all {
        if let Err(error) = metrics.registry.register(collector) {
            tracing::error!(%error, "a metric is registered twice");
        }
    }
    metrics
});

/// Counts one probe.
pub fn count_probe(pod: &Pod, container: &str, kind: Kind, answer: &Answer) {
    let result = match answer {
        Answer::Success => "successful",
        Answer::Failure(_) => "failed",
        Answer::Unknown(_) => "unknown",
    };
    let labels = [kind.word(), result, container, spec::name(pod), spec::namespace(pod), spec::uid(pod)];
    METRICS.probes.with_label_values(&labels).inc();
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
    }
}

/// Records one operation of the runtime.
pub fn observe_operation(operation: &str, took: Duration, ok: bool) {
    METRICS.operations.with_label_values(&[operation]).observe(took.as_secs_f64());
    if !ok {
        METRICS.operation_errors.with_label_values(&[operation]).inc();
    }
}

/// Records one list of the runtime.
pub fn observe_relist(took: Duration) {
    METRICS.relist.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
}

/// Sets the number of running and ended containers.
pub fn set_containers(running: i64, exited: i64) {
    METRICS.running.with_label_values(&["running"]).set(running);
    METRICS.running.with_label_values(&["exited"]).set(exited);
}

/// `/metrics` in the text format.
pub fn text() -> String {
    encode(&METRICS.registry.gather())
}

/// `/metrics/probes` in the text format.
pub fn probes_text() -> String {
    encode(&prometheus::core::Collector::collect(&METRICS.probes))
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
        set_containers(1, 2);
        let text = text();
        for name in [
            "kubelet_runtime_operations_duration_seconds_count",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_pleg_relist_duration_seconds_count",
            "kubelet_running_containers{container_state=\"exited\"} 2",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        let pod = Pod::default();
        count_probe(&pod, "c", Kind::Liveness, &Answer::Success);
        assert!(probes_text().contains("prober_probe_total{"));
        forget_probes(&pod, "c");
        assert!(!probes_text().contains("container=\"c\""));
    }
}
