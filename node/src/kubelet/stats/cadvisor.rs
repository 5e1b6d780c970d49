//! `/metrics/cadvisor`: the container metrics that dashboards know, under cAdvisor's names.

use std::fmt::Write;

use super::summary::{ContainerUse, Interface, PodUse, Reading};

type Value = fn(&ContainerUse) -> f64;
/// Name, help and value of each metric of an interface.
type Counter = (&'static str, &'static str, fn(&Interface) -> u64);

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
];

const INTERFACE: &[Counter] = &[
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx.0),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.rx.1,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx.0),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.tx.1,
    ),
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
    seen(&mut text, reading);
    faults(&mut text, reading);
    network(&mut text, reading);
    machine(&mut text, reading);
    text
}

fn seen(text: &mut String, reading: &Reading) {
    let help = "Last time a container was seen by the exporter";
    let _ = writeln!(text, "# HELP container_last_seen {help}\n# TYPE container_last_seen gauge");
    for (pod, container) in reading.pods.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c))) {
        let _ =
            writeln!(text, "container_last_seen{{{}}} {}", labels(pod, container), reading.at.as_second());
    }
}

fn faults(text: &mut String, reading: &Reading) {
    let name = "container_memory_failures_total";
    let _ = writeln!(
        text,
        "# HELP {name} Cumulative count of memory allocation failures.\n# TYPE {name} counter"
    );
    for (pod, container) in reading.pods.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c))) {
        for (kind, count) in [("pgfault", container.faults.0), ("pgmajfault", container.faults.1)] {
            let labels = labels(pod, container);
            let _ = writeln!(text, "{name}{{{labels},failure_type=\"{kind}\",scope=\"container\"}} {count}");
        }
    }
}

fn machine(text: &mut String, reading: &Reading) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cores as u64),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", reading.memory.0),
    ] {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
}

fn network(text: &mut String, reading: &Reading) {
    for (name, help, count) in INTERFACE {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
        for pod in &reading.pods {
            let (namespace, pod_name, uid) = &pod.reference;
            for interface in &pod.network {
                let _ = writeln!(
                    text,
                    "{name}{{container=\"\",id=\"/kubepods/pod{uid}\",interface=\"{}\",namespace=\"{namespace}\",pod=\"{pod_name}\"}} {}",
                    interface.name,
                    count(interface)
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
            network: vec![Interface { name: "eth0".into(), rx: (1, 2), tx: (3, 4) }],
            ..Default::default()
        };
        let text = text(&Reading { pods: vec![pod], ..Default::default() });
        for (name, ..) in CONTAINER {
            assert!(text.contains(&format!("{name}{{container=\"c\"")), "{name}");
        }
        for ((name, ..), count) in INTERFACE.iter().zip(1..) {
            let line = format!("{name}{{container=\"\",id=\"/kubepods/podu\",interface=\"eth0\"");
            let found = text.lines().find(|l| l.starts_with(&line));
            assert!(found.is_some_and(|l| l.ends_with(&format!(" {count}"))), "{name}: {found:?}");
        }
        for name in ["container_last_seen{", "failure_type=\"pgmajfault\"", "machine_cpu_cores "] {
            assert!(text.contains(name), "{name}");
        }
        assert!(text.contains("container_memory_usage_bytes{container=\"c\",id=\"/kubepods/podu/i\",image=\"\",name=\"i\",namespace=\"n\",pod=\"p\"} 9"));
    }
}
