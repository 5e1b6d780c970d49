//! `/metrics/cadvisor`: the container metrics that dashboards know, under cAdvisor's names.

use std::fmt::Write;

use super::summary::{ContainerUse, PodUse, Reading};

type Value = fn(&ContainerUse) -> f64;

/// Name, kind, help and value of each container metric.
const CONTAINER: &[(&str, &str, &str, Value)] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
        c.cpu_nanos as f64 / 1e9
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
        c.memory_working_set as f64
    }),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", |c| {
        c.memory_usage as f64
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.memory_rss as f64),
    ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed on this filesystem.", |c| {
        c.writable.0 as f64
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |c| c.start.map_or(0.0, |t| t.as_second() as f64),
    ),
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter.", |c| {
        c.start.map_or(0.0, |t| t.as_second() as f64)
    }),
];

fn labels(pod: &PodUse, container: &ContainerUse) -> String {
    let (namespace, name, uid) = &pod.reference;
    format!(
        "container=\"{}\",id=\"/kubepods/pod{uid}/{}\",image=\"{}\",name=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"",
        container.name, container.id, container.image, container.id
    )
}

/// The whole page.
pub fn text(reading: &Reading) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, kind, help, value) in CONTAINER {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for pod in &reading.pods {
            for container in &pod.containers {
                let _ = writeln!(text, "{name}{{{}}} {}", labels(pod, container), value(container));
            }
        }
    }
    network(&mut text, reading);
    let (capacity, _) = reading.memory;
    let _ = writeln!(
        text,
        "# HELP machine_memory_bytes Amount of memory installed on the machine.\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {capacity}"
    );
    text
}

fn network(text: &mut String, reading: &Reading) {
    for (name, help, receive) in [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", true),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", false),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for pod in &reading.pods {
            let (namespace, pod_name, uid) = &pod.reference;
            for interface in &pod.network {
                let bytes = if receive { interface.rx.0 } else { interface.tx.0 };
                let _ = writeln!(
                    text,
                    "{name}{{container=\"\",id=\"/kubepods/pod{uid}\",interface=\"{}\",namespace=\"{namespace}\",pod=\"{pod_name}\"}} {bytes}",
                    interface.name
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_line() {
        let container =
            ContainerUse { name: "c".into(), id: "i".into(), memory_usage: 9, ..Default::default() };
        let pod = PodUse {
            reference: ("n".into(), "p".into(), "u".into()),
            containers: vec![container],
            ..Default::default()
        };
        let text = text(&Reading { pods: vec![pod], ..Default::default() });
        for (name, ..) in CONTAINER {
            assert!(text.contains(&format!("{name}{{container=\"c\"")), "{name}");
        }
        assert!(text.contains("container_memory_usage_bytes{container=\"c\",id=\"/kubepods/podu/i\",image=\"\",name=\"i\",namespace=\"n\",pod=\"p\"} 9"));
    }
}
