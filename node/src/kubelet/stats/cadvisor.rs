//! `/metrics/cadvisor`: the container metrics that dashboards know, under cAdvisor's names. Of each pod there are its
//! containers' rows, and those of the pod as a whole, which name no container.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;

use super::counters::{COUNTERS, Counts, DISK_COUNTERS, device};
use super::network::{Interface, interfaces};
use super::summary::{ContainerUse, PodUse, Reading};
use crate::kubelet::pod::observed::State;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;

/// Name, kind, help and value of a metric, and whether pods have it, too.
type OfContainer = (&'static str, &'static str, &'static str, fn(&ContainerUse) -> f64, bool);
/// Name, help and value of each metric of an interface.
type OfInterface = (&'static str, &'static str, fn(&Interface) -> u64);

const CONTAINER: &[OfContainer] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |c| c.cpu_nanos as f64 / 1e9,
        true,
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        |c| c.memory_working_set as f64,
        true,
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory.",
        |c| c.memory_usage as f64,
        true,
    ),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.memory_rss as f64, false),
    (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed on this filesystem.",
        |c| c.writable.0 as f64,
        false,
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |c| c.start.map_or(0.0, |t| t.as_second() as f64),
        true,
    ),
];

const INTERFACE: &[OfInterface] = &[
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx.bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| i.rx.packets),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.rx.dropped,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.rx.errors,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx.bytes),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| i.tx.packets),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.tx.dropped,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.tx.errors,
    ),
];

/// What the kernel says beyond the runtime's statistics.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Path of the cgroup and what it counts, by container's id or pod's uid.
    cgroups: HashMap<String, (String, Counts)>,
    /// Interfaces of pods with a network of their own, by uid.
    networks: HashMap<String, Vec<Interface>>,
}

impl Kernel {
    /// Reads the cgroups of all pods that run. Blocks: some twenty files a container.
    pub fn read(pool: &Pool) -> Self {
        let mut found = Self::default();
        let cgroups = &pool.context().cgroups;
        for view in pool.views() {
            let uid = spec::uid(&view.pod);
            let running = view.snapshot.observed.containers.iter().filter(|c| c.state == State::Running);
            let ids: Vec<&str> = running.map(|c| c.id.as_str()).collect();
            for id in ids.iter().copied().map(Some).chain([None]) {
                if let Some(counts) = cgroups.counts(&view.pod, id) {
                    found.cgroups.insert(id.unwrap_or(uid).to_owned(), counts);
                }
            }
            if spec::is_host_network(&view.pod) {
                continue;
            }
            let process = ids.iter().find_map(|id| cgroups.process_of(&view.pod, id));
            let table =
                process.and_then(|process| fs::read_to_string(format!("/proc/{process}/net/dev")).ok());
            if let Some(table) = table {
                found.networks.insert(uid.to_owned(), interfaces(&table));
            }
        }
        found
    }
}

/// A container, or a pod as a whole, with its labels.
struct Subject<'a> {
    labels: String,
    own: ContainerUse,
    is_pod: bool,
    counts: Option<&'a Counts>,
}

fn subjects<'a>(pod: &PodUse, kernel: &'a Kernel) -> Vec<Subject<'a>> {
    let (namespace, name, uid) = &pod.reference;
    let whole = ContainerUse {
        cpu_nanos: pod.usage.cpu_nanos,
        memory_working_set: pod.usage.memory_working_set_bytes,
        memory_usage: pod.usage.memory_usage_bytes,
        start: pod.start,
        ..Default::default()
    };
    let subject = |own: ContainerUse, key: &str| {
        let known = kernel.cgroups.get(key);
        let guess = || format!("/kubepods/pod{uid}/{}", own.id).trim_end_matches('/').to_owned();
        let path = known.map_or_else(guess, |(path, _)| path.clone());
        let labels = format!(
            "container=\"{}\",id=\"{path}\",image=\"{}\",name=\"{}\",namespace=\"{namespace}\",pod=\"{name}\"",
            own.name, own.image, own.id
        );
        Subject { labels, is_pod: own.id.is_empty(), own, counts: known.map(|(_, counts)| counts) }
    };
    let containers = pod.containers.iter().map(|own| subject(own.clone(), &own.id));
    containers.chain([subject(whole, uid)]).collect()
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The whole page.
pub fn text(reading: &Reading, kernel: &Kernel) -> String {
    let mut text = String::new();
    let all: Vec<Subject<'_>> = reading.pods.iter().flat_map(|pod| subjects(pod, kernel)).collect();
    for (name, kind, help, value, of_pods) in CONTAINER {
        head(&mut text, name, kind, help);
        for subject in all.iter().filter(|subject| *of_pods || !subject.is_pod) {
            let _ = writeln!(text, "{name}{{{}}} {}", subject.labels, value(&subject.own));
        }
    }
    head(&mut text, "container_last_seen", "gauge", "Last time a container was seen by the exporter");
    for subject in &all {
        let _ = writeln!(text, "container_last_seen{{{}}} {}", subject.labels, reading.at.as_second());
    }
    counts(&mut text, &all);
    disks(&mut text, &all);
    faults(&mut text, &all);
    network(&mut text, reading, kernel);
    machine(&mut text, reading);
    text
}

fn counts(text: &mut String, all: &[Subject<'_>]) {
    for (place, counter) in COUNTERS.iter().enumerate() {
        head(text, counter.name, counter.kind, counter.help);
        for subject in all {
            let value = subject.counts.and_then(|counts| *counts.numbers.get(place)?);
            if let Some(value) = value {
                let _ = writeln!(text, "{}{{{}}} {value}", counter.name, subject.labels);
            }
        }
    }
}

fn disks(text: &mut String, all: &[Subject<'_>]) {
    for (place, (name, help, ..)) in DISK_COUNTERS.iter().enumerate() {
        head(text, name, "counter", help);
        for subject in all {
            let disks = subject.counts.and_then(|counts| counts.disks.get(place));
            for (disk, count) in disks.into_iter().flatten() {
                let device = device(disk);
                let _ = writeln!(text, "{name}{{{},device=\"{device}\"}} {count}", subject.labels);
            }
        }
    }
}

fn faults(text: &mut String, all: &[Subject<'_>]) {
    let name = "container_memory_failures_total";
    head(text, name, "counter", "Cumulative count of memory allocation failures.");
    for Subject { labels, own, .. } in all.iter().filter(|subject| !subject.is_pod) {
        for (kind, count) in [("pgfault", own.faults.0), ("pgmajfault", own.faults.1)] {
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
        head(text, name, "gauge", help);
        let _ = writeln!(text, "{name} {value}");
    }
}

fn network(text: &mut String, reading: &Reading, kernel: &Kernel) {
    for (name, help, count) in INTERFACE {
        head(text, name, "counter", help);
        for pod in &reading.pods {
            let (namespace, pod_name, uid) = &pod.reference;
            let path = kernel
                .cgroups
                .get(uid)
                .map_or_else(|| format!("/kubepods/pod{uid}"), |(path, _)| path.clone());
            for interface in kernel.networks.get(uid).unwrap_or(&pod.network) {
                let _ = writeln!(
                    text,
                    "{name}{{container=\"\",id=\"{path}\",image=\"\",interface=\"{}\",name=\"\",namespace=\"{namespace}\",pod=\"{pod_name}\"}} {}",
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
    use crate::kubelet::stats::network::Traffic;

    #[test]
    fn every_metric_has_its_line() {
        let container =
            ContainerUse { name: "c".into(), id: "i".into(), memory_usage: 9, ..Default::default() };
        let traffic =
            |first| Traffic { bytes: first, packets: first + 1, dropped: first + 2, errors: first + 3 };
        let eth0 = Interface { name: "eth0".into(), rx: traffic(1), tx: traffic(5) };
        let pod = PodUse {
            reference: ("n".into(), "p".into(), "u".into()),
            containers: vec![container],
            network: vec![Interface::default()],
            ..Default::default()
        };
        let counts = Counts {
            numbers: (0..COUNTERS.len()).map(|place| Some(place as f64)).collect(),
            disks: DISK_COUNTERS.iter().map(|_| vec![("0:0".to_owned(), 5)]).collect(),
        };
        let kernel = Kernel {
            cgroups: [("i".to_owned(), ("/k/podu/i".to_owned(), counts))].into(),
            networks: [("u".to_owned(), vec![eth0])].into(),
        };
        let text = text(&Reading { pods: vec![pod], ..Default::default() }, &kernel);
        let labels = "container=\"c\",id=\"/k/podu/i\",image=\"\",name=\"i\",namespace=\"n\",pod=\"p\"";
        let whole = "container=\"\",id=\"/kubepods/podu\",image=\"\",name=\"\",namespace=\"n\",pod=\"p\"";
        let has = |line: &str| assert!(text.contains(line), "{line}");
        for (name, .., of_pods) in CONTAINER {
            has(&format!("\n{name}{{{labels}}} "));
            assert_eq!(text.contains(&format!("\n{name}{{{whole}}} ")), *of_pods, "{name}");
        }
        for (place, counter) in COUNTERS.iter().enumerate() {
            has(&format!("\n{}{{{labels}}} {place}\n", counter.name));
        }
        for (name, ..) in DISK_COUNTERS {
            has(&format!("\n{name}{{{labels},device=\"\"}} 5\n"));
        }
        for ((name, ..), count) in INTERFACE.iter().zip(1..) {
            has(&format!(
                "\n{name}{{container=\"\",id=\"/kubepods/podu\",image=\"\",interface=\"eth0\",name=\"\",namespace=\"n\",pod=\"p\"}} {count}\n"
            ));
        }
        has("\ncontainer_last_seen{");
        has("failure_type=\"pgmajfault\"");
        has("\nmachine_cpu_cores ");
        has(&format!("container_memory_usage_bytes{{{labels}}} 9\n"));
    }
}
