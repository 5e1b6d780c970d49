//! `/metrics/resource`: CPU and memory of node, pods and containers under upstream's names.

use std::fmt::Write;

use jiff::Timestamp;

use super::summary::Reading;

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

struct Page {
    text: String,
    at_millis: i64,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.text, "{name}{labels} {value} {}", self.at_millis);
    }
}

/// The whole page.
pub fn text(reading: &Reading) -> String {
    let mut page = Page { text: String::new(), at_millis: reading.at.as_millisecond() };
    let containers: Vec<_> = reading
        .pods
        .iter()
        .flat_map(|pod| {
            pod.containers.iter().map(move |c| {
                let (namespace, name, _) = &pod.reference;
                (format!("container=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"", c.name), c)
            })
        })
        .collect();
    page.head(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for (labels, c) in &containers {
        page.line("container_cpu_usage_seconds_total", labels, seconds(c.cpu_nanos));
    }
    page.head("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for (labels, c) in &containers {
        page.line("container_memory_working_set_bytes", labels, c.memory_working_set);
    }
    page.head(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for (labels, c) in &containers {
        let start = c.start.unwrap_or(Timestamp::UNIX_EPOCH).as_millisecond() as f64 / 1000.0;
        page.line("container_start_time_seconds", labels, start);
    }
    page.head(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    page.line("node_cpu_usage_seconds_total", "", seconds(reading.cpu.0));
    page.head("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    page.line("node_memory_working_set_bytes", "", reading.memory.1);
    pods(&mut page, reading);
    page.head(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    let _ = writeln!(page.text, "resource_scrape_error 0");
    page.text
}

fn pods(page: &mut Page, reading: &Reading) {
    let labels =
        |(namespace, name, _): &(String, String, String)| format!("namespace=\"{namespace}\",pod=\"{name}\"");
    page.head(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &reading.pods {
        page.line("pod_cpu_usage_seconds_total", &labels(&pod.reference), seconds(pod.usage.cpu_nanos));
    }
    page.head("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for pod in &reading.pods {
        page.line(
            "pod_memory_working_set_bytes",
            &labels(&pod.reference),
            pod.usage.memory_working_set_bytes,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::stats::summary::{ContainerUse, PodUse};

    #[test]
    fn upstreams_names_and_labels() {
        let reading = Reading {
            pods: vec![PodUse {
                reference: ("ns".into(), "p".into(), "u".into()),
                containers: vec![ContainerUse {
                    name: "c".into(),
                    cpu_nanos: 1_500_000_000,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = text(&reading);
        assert!(
            text.contains(
                "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 0\n"
            ),
            "{text}"
        );
        assert!(text.contains("pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 0 0\n"), "{text}");
    }
}
