//! What pods' volumes and logs use of their disks. Walking through files is dear, so a reading stands for a minute, and
//! only those who show it ask.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::usage::disk_bytes;
use crate::kubelet::cri::names;
use crate::kubelet::node::facts;
use crate::kubelet::pod::spec;
use crate::kubelet::volumes::container_mounts::Prepared;
use crate::kubelet::volumes::mounts;
use crate::kubelet::volumes::source::Source;
use crate::kubelet::worker::Context;

/// How long a reading stands, as upstream's.
const FRESH: Duration = Duration::from_secs(60);

/// A file system: bytes, bytes free, inodes, inodes free.
pub type Disk = (u64, u64, u64, u64);

/// Use of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeUse {
    /// Its name in the pod.
    pub name: String,
    /// The claim it comes from.
    pub claim: Option<String>,
    /// The file system it is on.
    pub disk: Disk,
    /// What it uses of it, bytes.
    pub used: u64,
    /// The same, inodes; known where the file system is its own.
    pub inodes_used: Option<u64>,
    /// It is on the machine's disk and goes with the pod.
    pub local: bool,
}

/// Use of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Its volumes, by name.
    pub volumes: Vec<VolumeUse>,
    /// The logs of each container, bytes.
    pub logs: BTreeMap<String, u64>,
}

impl DiskUse {
    /// What of the machine's own disk goes with the pod, beside its containers' files, bytes.
    pub fn local_bytes(&self) -> u64 {
        let volumes = self.volumes.iter().filter(|v| v.local).map(|v| v.used);
        volumes.chain(self.logs.values().copied()).sum()
    }
}

/// The last readings, by pod uid.
#[derive(Debug, Default)]
pub struct Disks(Mutex<HashMap<String, (Instant, Arc<DiskUse>)>>);

impl Disks {
    /// Every pod's use, by uid. Files are walked through where nobody waits.
    pub async fn of(&self, context: &Arc<Context>, pods: Vec<Arc<Pod>>) -> HashMap<String, Arc<DiskUse>> {
        let mut all = HashMap::new();
        for pod in pods {
            let uid = spec::uid(&pod).to_owned();
            let known = self.0.lock().get(&uid).cloned();
            let reading = match known.filter(|(at, _)| at.elapsed() < FRESH) {
                Some(reading) => reading,
                None => {
                    let context = Arc::clone(context);
                    let measured = tokio::task::spawn_blocking(move || measure(&context, &pod)).await;
                    (Instant::now(), Arc::new(measured.unwrap_or_default()))
                }
            };
            all.insert(uid, reading);
        }
        self.0.lock().clone_from(&all);
        all.into_iter().map(|(uid, (_, reading))| (uid, reading)).collect()
    }
}

fn measure(context: &Context, pod: &Pod) -> DiskUse {
    let uid = spec::uid(pod);
    let machine = facts::disk(&context.config.root_dir).unwrap_or_default();
    let prepared = context.volumes.of(uid);
    let volumes = prepared.iter().filter_map(|(name, volume)| volume_use(name, volume, machine));
    let logs = names::pod_log_dir(&context.config.pod_logs_dir, spec::namespace(pod), spec::name(pod), uid);
    let containers = spec::init_containers(pod).iter().chain(spec::containers(pod));
    DiskUse {
        volumes: volumes.collect(),
        logs: containers.map(|c| (c.name.clone(), disk_bytes(&logs.join(&c.name)))).collect(),
    }
}

/// `None` for what has no use of its own: paths of the machine, raw disks, images.
fn volume_use(name: &str, prepared: &Prepared, machine: Disk) -> Option<VolumeUse> {
    let volume = &prepared.volume;
    if volume.block || matches!(volume.source, Source::HostPath { .. } | Source::Image(_)) {
        return None;
    }
    let (name, claim) = (name.to_owned(), volume.claim.clone());
    if mounts::is_mount_point(&prepared.path).unwrap_or(false) {
        return own_disk(&prepared.path).map(|measured| VolumeUse { name, claim, ..measured });
    }
    let used = disk_bytes(&prepared.path);
    Some(VolumeUse { name, claim, disk: machine, used, inodes_used: None, local: true })
}

fn own_disk(path: &Path) -> Option<VolumeUse> {
    let disk = facts::disk(path)?;
    let (capacity, free, inodes, inodes_free) = disk;
    Some(VolumeUse {
        disk,
        used: capacity.saturating_sub(free),
        inodes_used: Some(inodes.saturating_sub(inodes_free)),
        ..VolumeUse::default()
    })
}

type Value = fn(&VolumeUse) -> Option<u64>;

/// Name, help and value of each metric of a claim's volume.
const CLAIM: &[(&str, &str, Value)] = &[
    ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |v| Some(v.disk.1)),
    ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |v| Some(v.disk.0)),
    ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |v| Some(v.disk.2)),
    ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |v| Some(v.disk.3)),
    ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |v| v.inodes_used),
    ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |v| Some(v.used)),
];

/// The metrics of claims' volumes; `uses` are the pods' namespaces with their readings.
pub fn claims_text(uses: &[(String, Arc<DiskUse>)]) -> String {
    let mut text = String::new();
    // Two pods may share a claim; writing to a String cannot fail.
    let claims: BTreeMap<(&str, &str), &VolumeUse> = uses
        .iter()
        .flat_map(|(namespace, disks)| disks.volumes.iter().map(move |volume| (namespace, volume)))
        .filter_map(|(namespace, volume)| Some(((namespace.as_str(), volume.claim.as_deref()?), volume)))
        .collect();
    for (name, help, value) in CLAIM {
        let _ = writeln!(text, "# HELP {name} [ALPHA] {help}\n# TYPE {name} gauge");
        for ((namespace, claim), volume) in &claims {
            if let Some(value) = value(volume) {
                let labels = format!("namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"");
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> DiskUse {
        let claim = VolumeUse {
            name: "data".into(),
            claim: Some("c".into()),
            disk: (100, 60, 10, 4),
            used: 40,
            inodes_used: Some(6),
            local: false,
        };
        let scratch = VolumeUse { name: "scratch".into(), used: 7, local: true, ..Default::default() };
        DiskUse { volumes: vec![claim, scratch], logs: [("c".to_owned(), 5)].into() }
    }

    #[test]
    fn a_shared_claim_is_shown_once_under_upstreams_names() {
        let reading = Arc::new(reading());
        let text = claims_text(&[("ns".into(), Arc::clone(&reading)), ("ns".into(), reading)]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), CLAIM.len());
        assert_eq!(
            lines[0],
            "kubelet_volume_stats_available_bytes{namespace=\"ns\",persistentvolumeclaim=\"c\"} 60"
        );
    }

    #[test]
    fn only_what_goes_with_the_pod_is_local() {
        assert_eq!(reading().local_bytes(), 12);
    }
}
