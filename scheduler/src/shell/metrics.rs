//! Metrics under upstream's names (`scheduler_…`).
//!
//! Owns the registry and the translation of counters into it.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::core::queue::Pending;
use crate::core::scheduler::Counters;

/// All metrics of one scheduler.
pub struct Metrics {
    registry: Registry,
    attempts: IntCounterVec,
    attempt_secs: HistogramVec,
    algorithm_secs: Histogram,
    pending: IntGaugeVec,
    cache: IntGaugeVec,
    pod_attempts: Histogram,
    sli_secs: HistogramVec,
    point_secs: HistogramVec,
    preemption_attempts: IntCounter,
    preemption_victims: Histogram,
}

fn exponential(start: f64, factor: f64, count: usize) -> Vec<f64> {
    (0..count as i32).map(|i| start * factor.powi(i)).collect()
}

impl Metrics {
    /// A fresh registry.
    ///
    /// # Errors
    /// When a metric is malformed, which its names and buckets decide.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let histograms = |name: &str, help: &str, buckets: Vec<f64>, labels: &[&str]| {
            let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let attempts = IntCounterVec::new(
            Opts::new("scheduler_schedule_attempts_total", "Attempts to schedule pods, by result."),
            &["profile", "result"],
        )?;
        registry.register(Box::new(attempts.clone()))?;
        let preemption_attempts =
            IntCounter::new("scheduler_preemption_attempts_total", "Attempts to preempt pods.")?;
        registry.register(Box::new(preemption_attempts.clone()))?;
        let fine = || exponential(0.000_01, 2.0, 20);
        Ok(Metrics {
            attempts,
            preemption_attempts,
            attempt_secs: histograms(
                "scheduler_scheduling_attempt_duration_seconds",
                "Duration of an attempt: algorithm and binding.",
                fine(),
                &["profile", "result"],
            )?,
            algorithm_secs: histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Duration of one decision.",
                fine(),
            )?,
            pending: gauges("scheduler_pending_pods", "Pending pods, by queue.", &["queue"])?,
            cache: gauges("scheduler_scheduler_cache_size", "Objects in the scheduler's cache.", &["type"])?,
            pod_attempts: histogram(
                "scheduler_pod_scheduling_attempts",
                "Attempts until a pod was scheduled.",
                exponential(1.0, 2.0, 5),
            )?,
            sli_secs: histograms(
                "scheduler_pod_scheduling_sli_duration_seconds",
                "From the first attempt of a pod to its binding.",
                exponential(0.01, 2.0, 20),
                &["attempts"],
            )?,
            point_secs: histograms(
                "scheduler_framework_extension_point_duration_seconds",
                "Duration of an extension point; binding is the one that waits for the API.",
                exponential(0.0001, 2.0, 16),
                &["extension_point", "status", "profile"],
            )?,
            preemption_victims: histogram(
                "scheduler_preemption_victims",
                "Pods evicted for one pod.",
                exponential(1.0, 2.0, 7),
            )?,
            registry,
        })
    }

    /// Counts what one attempt has changed.
    pub fn observe_attempt(&self, profile: &str, before: Counters, after: Counters, took: Duration) {
        let result = if after.scheduled > before.scheduled {
            "scheduled"
        } else if after.errors > before.errors {
            "error"
        } else {
            "unschedulable"
        };
        self.attempts.with_label_values(&[profile, result]).inc();
        self.attempt_secs.with_label_values(&[profile, result]).observe(took.as_secs_f64());
        self.algorithm_secs.observe(took.as_secs_f64());
        self.preemption_attempts.inc_by(after.preemption_attempts - before.preemption_attempts);
    }

    /// Notes a pod that was bound.
    pub fn observe_bound(&self, profile: &str, attempts: u32, waited: Duration, bind: Duration) {
        let label = if attempts >= 15 { "15+".to_owned() } else { attempts.to_string() };
        self.pod_attempts.observe(f64::from(attempts));
        self.sli_secs.with_label_values(&[&label]).observe(waited.as_secs_f64());
        self.point_secs.with_label_values(&["Bind", "Success", profile]).observe(bind.as_secs_f64());
    }

    /// Notes the victims of one preemption.
    pub fn observe_victims(&self, victims: usize) {
        self.preemption_victims.observe(victims as f64);
    }

    /// Shows the queue and the cache as they stand.
    pub fn observe_queue(&self, pending: Pending, pods: usize) {
        for (queue, count) in [
            ("active", pending.active),
            ("backoff", pending.backoff),
            ("unschedulable", pending.unschedulable),
            ("gated", pending.gated),
        ] {
            self.pending.with_label_values(&[queue]).set(count as i64);
        }
        self.cache.with_label_values(&["pods"]).set(pods as i64);
    }

    /// All metrics as text, those of the process' clients among them.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        let mut families = self.registry.gather();
        families.extend(machinery::client::requests::gather());
        if let Err(error) = TextEncoder::new().encode(&families, &mut bytes) {
            tracing::warn!(%error, "cannot print metrics");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_names_are_served() {
        let metrics = Metrics::new().expect("metrics");
        let after = Counters { scheduled: 1, ..Counters::default() };
        metrics.observe_attempt("default-scheduler", Counters::default(), after, Duration::from_millis(1));
        metrics.observe_queue(Pending { active: 3, ..Pending::default() }, 7);
        let text = metrics.text();
        for line in [
            r#"scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 1"#,
            r#"scheduler_pending_pods{queue="active"} 3"#,
            r#"scheduler_scheduler_cache_size{type="pods"} 7"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
