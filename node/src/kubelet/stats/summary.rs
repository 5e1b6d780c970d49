//! The summary: one reading of everything.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::cri;
use serde_json::{Map, Value, json};

use super::disks::{DiskUse, Disks, VolumeUse};
use super::network::{Interface, Traffic, interfaces};
use super::rates::Rates;
use super::usage::PodUsage;
use crate::kubelet::cri::client::{CALL_TIMEOUT, timed};
use crate::kubelet::cri::names;
use crate::kubelet::node::facts;
use crate::kubelet::pod::observed::State;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;
use crate::kubelet::worker::pool::View;

/// Use of one container.
#[derive(Clone, Debug, Default)]
pub struct ContainerUse {
    /// Its name in the spec.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Its image.
    pub image: String,
    /// When it started.
    pub start: Option<Timestamp>,
    /// CPU time, nanoseconds.
    pub cpu_nanos: u64,
    /// CPU rate, billionths.
    pub cpu_rate: Option<u64>,
    /// Memory that cannot be taken back, bytes.
    pub memory_working_set: u64,
    /// All memory, bytes.
    pub memory_usage: u64,
    /// Anonymous memory, bytes.
    pub memory_rss: u64,
    /// Page faults, and those that needed a disk.
    pub faults: (u64, u64),
    /// What it has written over its image, bytes and inodes.
    pub writable: (u64, u64),
}

/// Use of one pod.
#[derive(Clone, Debug, Default)]
pub struct PodUse {
    /// Namespace, name and uid.
    pub reference: (String, String, String),
    /// When it started.
    pub start: Option<Timestamp>,
    /// The pod as a whole.
    pub usage: PodUsage,
    /// CPU rate of the whole, billionths.
    pub cpu_rate: Option<u64>,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
    /// Its interfaces, the main one first.
    pub network: Vec<Interface>,
    /// Its volumes and logs; only filled by [`Collector::collect_all`].
    pub disks: Arc<DiskUse>,
}

/// One reading.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When.
    pub at: Timestamp,
    /// The node's name.
    pub node: String,
    /// When the machine started.
    pub boot: Option<Timestamp>,
    /// CPU time of the machine, nanoseconds, and its rate.
    pub cpu: (u64, Option<u64>),
    /// Memory of the machine: capacity and used, bytes.
    pub memory: (u64, u64),
    /// Disk of pods: capacity, free, inodes, inodes free.
    pub disk: (u64, u64, u64, u64),
    /// Images on disk, bytes.
    pub image_bytes: u64,
    /// The machine's interfaces.
    pub network: Vec<Interface>,
    /// Every pod.
    pub pods: Vec<PodUse>,
}

/// Collects readings.
#[derive(Debug, Default)]
pub struct Collector {
    rates: Rates,
    disks: Disks,
}

impl Collector {
    /// Reads everything now.
    pub async fn collect(&self, pool: &Pool) -> Reading {
        let at = Timestamp::now();
        let context = pool.context();
        let stats = self.container_stats(pool).await;
        let networks = sandbox_networks(pool).await;
        let cpu = machine_cpu_nanos();
        let pods = pool.views().iter().map(|view| self.pod(pool, view, &stats, &networks, at)).collect();
        Reading {
            at,
            node: context.config.node_name.clone(),
            boot: boot_time(),
            cpu: (cpu, self.rates.rate("node", cpu, at)),
            memory: facts::memory(),
            disk: facts::disk(&context.config.root_dir).unwrap_or_default(),
            image_bytes: image_bytes(pool).await,
            network: interfaces(&fs::read_to_string("/proc/net/dev").unwrap_or_default()),
            pods,
        }
    }

    /// The same with volumes and logs.
    pub async fn collect_all(&self, pool: &Pool) -> Reading {
        let mut reading = self.collect(pool).await;
        let mut disks = self.disks(pool).await;
        for pod in &mut reading.pods {
            pod.disks = disks.remove(&pod.reference.2).unwrap_or_default();
        }
        reading
    }

    /// What every pod's volumes and logs use, by uid.
    pub async fn disks(&self, pool: &Pool) -> HashMap<String, Arc<DiskUse>> {
        let pods = pool.views().into_iter().map(|view| view.pod).collect();
        self.disks.of(pool.context(), pods).await
    }

    async fn container_stats(&self, pool: &Pool) -> HashMap<String, cri::ContainerStats> {
        let request = timed(cri::ListContainerStatsRequest { filter: None }, CALL_TIMEOUT);
        let answer = pool.context().runtime.runtime().list_container_stats(request).await;
        let stats = answer.map(|a| a.into_inner().stats).unwrap_or_default();
        stats.into_iter().filter_map(|s| Some((s.attributes.as_ref()?.id.clone(), s))).collect()
    }

    fn pod(
        &self,
        pool: &Pool,
        view: &View,
        stats: &HashMap<String, cri::ContainerStats>,
        networks: &HashMap<String, Vec<Interface>>,
        at: Timestamp,
    ) -> PodUse {
        let uid = spec::uid(&view.pod);
        let usage = pool.context().cgroups.usage(&view.pod);
        let running = view.snapshot.observed.containers.iter().filter(|c| c.state == State::Running);
        let containers = running.map(|container| {
            let mut own = ContainerUse {
                name: container.name.clone(),
                id: container.id.clone(),
                image: container.image.clone(),
                start: container.started_at,
                ..Default::default()
            };
            if let Some(stats) = stats.get(&container.id) {
                fill(&mut own, stats);
                own.cpu_rate = self.rates.rate(&container.id, own.cpu_nanos, at);
            }
            own
        });
        PodUse {
            reference: (
                spec::namespace(&view.pod).to_owned(),
                spec::name(&view.pod).to_owned(),
                uid.to_owned(),
            ),
            start: view.snapshot.status.start_time.as_ref().map(|t| t.0),
            cpu_rate: self.rates.rate(uid, usage.cpu_nanos, at),
            usage,
            containers: containers.collect(),
            network: networks.get(uid).cloned().unwrap_or_default(),
            disks: Arc::default(),
        }
    }
}

fn value(wrapped: Option<cri::UInt64Value>) -> u64 {
    wrapped.map_or(0, |w| w.value)
}

fn fill(own: &mut ContainerUse, stats: &cri::ContainerStats) {
    if let Some(cpu) = &stats.cpu {
        own.cpu_nanos = value(cpu.usage_core_nano_seconds);
    }
    if let Some(memory) = &stats.memory {
        own.memory_working_set = value(memory.working_set_bytes);
        own.memory_usage = value(memory.usage_bytes).max(own.memory_working_set);
        own.memory_rss = value(memory.rss_bytes);
        own.faults = (value(memory.page_faults), value(memory.major_page_faults));
    }
    if let Some(disk) = &stats.writable_layer {
        own.writable = (value(disk.used_bytes), value(disk.inodes_used));
    }
}

/// Interfaces of every sandbox by pod uid, where the runtime reports them.
async fn sandbox_networks(pool: &Pool) -> HashMap<String, Vec<Interface>> {
    let request = timed(cri::ListPodSandboxStatsRequest { filter: None }, CALL_TIMEOUT);
    let answer = pool.context().runtime.runtime().list_pod_sandbox_stats(request).await;
    let mut found = HashMap::new();
    for stats in answer.map(|a| a.into_inner().stats).unwrap_or_default() {
        let uid = stats.attributes.as_ref().and_then(|a| a.labels.get(names::POD_UID).cloned());
        let network = stats.linux.and_then(|l| l.network);
        if let (Some(uid), Some(network)) = (uid, network) {
            let all = network.default_interface.into_iter().chain(network.interfaces);
            let traffic =
                |bytes, errors| Traffic { bytes: value(bytes), errors: value(errors), ..Default::default() };
            let convert = |i: cri::NetworkInterfaceUsage| Interface {
                name: i.name,
                rx: traffic(i.rx_bytes, i.rx_errors),
                tx: traffic(i.tx_bytes, i.tx_errors),
            };
            found.insert(uid, all.map(convert).collect());
        }
    }
    found
}

async fn image_bytes(pool: &Pool) -> u64 {
    let request = timed(cri::ImageFsInfoRequest {}, CALL_TIMEOUT);
    let answer = pool.context().runtime.images().image_fs_info(request).await;
    let systems = answer.map(|a| a.into_inner().image_filesystems).unwrap_or_default();
    systems.into_iter().map(|f| value(f.used_bytes)).sum()
}

fn machine_cpu_nanos() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal: everything but idle and waiting; ticks are hundredths.
    let busy: u64 =
        ticks.iter().enumerate().filter(|(i, _)| matches!(i, 0..=2 | 5..=7)).map(|(_, n)| n).sum();
    busy * 10_000_000
}

fn boot_time() -> Option<Timestamp> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

fn time(at: Timestamp) -> Value {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    serde_json::to_value(Time(whole)).unwrap_or_default()
}

fn network_json(at: Timestamp, interfaces: &[Interface]) -> Value {
    let one = |i: &Interface| json!({"name": i.name, "rxBytes": i.rx.bytes, "rxErrors": i.rx.errors, "txBytes": i.tx.bytes, "txErrors": i.tx.errors});
    let mut value = interfaces.first().map_or_else(|| json!({}), one);
    value["time"] = time(at);
    value["interfaces"] = interfaces.iter().map(one).collect();
    value
}

fn cpu_json(at: Timestamp, nanos: u64, rate: Option<u64>) -> Value {
    let mut value =
        Map::from_iter([("time".to_owned(), time(at)), ("usageCoreNanoSeconds".to_owned(), json!(nanos))]);
    if let Some(rate) = rate {
        value.insert("usageNanoCores".into(), json!(rate));
    }
    Value::Object(value)
}

impl Reading {
    fn disk_json(&self, used: u64) -> Value {
        let (capacity, free, inodes, inodes_free) = self.disk;
        json!({"time": time(self.at), "availableBytes": free, "capacityBytes": capacity, "usedBytes": used,
            "inodesFree": inodes_free, "inodes": inodes})
    }

    /// The summary as clients read it.
    pub fn to_json(&self) -> Value {
        let (capacity, used) = self.memory;
        let disk_used = self.disk.0.saturating_sub(self.disk.1);
        json!({
            "node": {
                "nodeName": self.node,
                "startTime": self.boot.map(time),
                "cpu": cpu_json(self.at, self.cpu.0, self.cpu.1),
                "memory": {"time": time(self.at), "availableBytes": capacity.saturating_sub(used),
                    "usageBytes": used, "workingSetBytes": used, "rssBytes": used},
                "network": network_json(self.at, &self.network),
                "fs": self.disk_json(disk_used),
                "runtime": {"imageFs": self.disk_json(self.image_bytes)},
            },
            "pods": self.pods.iter().map(|p| self.pod_json(p)).collect::<Vec<_>>(),
        })
    }

    fn pod_json(&self, pod: &PodUse) -> Value {
        let (namespace, name, uid) = &pod.reference;
        let containers: Vec<Value> =
            pod.containers.iter().map(|c| self.container_json(c, &pod.disks)).collect();
        let written: u64 = pod.containers.iter().map(|c| c.writable.0).sum();
        json!({
            "podRef": {"name": name, "namespace": namespace, "uid": uid},
            "startTime": pod.start.map(time),
            "containers": containers,
            "cpu": cpu_json(self.at, pod.usage.cpu_nanos, pod.cpu_rate),
            "memory": {"time": time(self.at), "usageBytes": pod.usage.memory_usage_bytes,
                "workingSetBytes": pod.usage.memory_working_set_bytes,
                "rssBytes": pod.containers.iter().map(|c| c.memory_rss).sum::<u64>()},
            "network": network_json(self.at, &pod.network),
            "process_stats": {"process_count": pod.usage.processes},
            "ephemeral-storage": self.disk_json(written + pod.disks.local_bytes()),
            "volume": pod.disks.volumes.iter().map(|v| self.volume_json(v, namespace)).collect::<Vec<_>>(),
        })
    }

    fn volume_json(&self, volume: &VolumeUse, namespace: &str) -> Value {
        let (capacity, free, inodes, inodes_free) = volume.disk;
        let mut value = json!({"time": time(self.at), "name": volume.name, "availableBytes": free,
            "capacityBytes": capacity, "usedBytes": volume.used, "inodesFree": inodes_free, "inodes": inodes});
        if let Some(used) = volume.inodes_used {
            value["inodesUsed"] = json!(used);
        }
        if let Some(claim) = &volume.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": namespace});
        }
        value
    }

    fn container_json(&self, container: &ContainerUse, disks: &DiskUse) -> Value {
        let mut rootfs = self.disk_json(container.writable.0);
        rootfs["inodesUsed"] = json!(container.writable.1);
        json!({
            "name": container.name,
            "startTime": container.start.map(time),
            "cpu": cpu_json(self.at, container.cpu_nanos, container.cpu_rate),
            "memory": {"time": time(self.at), "usageBytes": container.memory_usage,
                "workingSetBytes": container.memory_working_set, "rssBytes": container.memory_rss,
                "pageFaults": container.faults.0, "majorPageFaults": container.faults.1},
            "rootfs": rootfs,
            "logs": self.disk_json(disks.logs.get(&container.name).copied().unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_the_summary() {
        let reading = Reading {
            node: "n".into(),
            memory: (100, 40),
            disk: (1000, 600, 10, 5),
            pods: vec![PodUse {
                reference: ("ns".into(), "p".into(), "u".into()),
                containers: vec![ContainerUse {
                    name: "c".into(),
                    cpu_nanos: 7,
                    cpu_rate: Some(3),
                    ..Default::default()
                }],
                disks: Arc::new(DiskUse {
                    volumes: vec![VolumeUse {
                        name: "v".into(),
                        claim: Some("data".into()),
                        disk: (100, 60, 10, 4),
                        used: 40,
                        ..Default::default()
                    }],
                    logs: [("c".to_owned(), 9)].into(),
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = reading.to_json();
        assert_eq!(json["node"]["memory"]["availableBytes"], 60);
        assert_eq!(json["node"]["fs"]["usedBytes"], 400);
        let pod = &json["pods"][0];
        assert_eq!(pod["podRef"]["uid"], "u");
        assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 3);
        assert_eq!(pod["containers"][0]["logs"]["usedBytes"], 9);
        assert_eq!(
            (&pod["volume"][0]["usedBytes"], &pod["volume"][0]["pvcRef"]["name"]),
            (&json!(40), &json!("data"))
        );
    }
}
