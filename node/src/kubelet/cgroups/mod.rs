//! Cgroups of pods by class, by the kernel's files ([`trees`]) or by systemd's slices ([`systemd`]). Containers' own cgroups
//! are the runtime's business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::cgroup_limits::{ClassLimits, Limits, of_pod};
use super::config::{CgroupDriver, Config};
use super::pod::qos::{QosClass, class};
use super::pod::spec;
use super::stats::counters::{self, Counts};
use super::stats::usage::{PodUsage, limited_memory, of_cgroup};
use trees::Trees;

mod systemd;
mod trees;

/// Where the kernel shows cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup of all pods.
const KUBEPODS: &str = "kubepods";

/// True on a machine with cgroup v2 alone.
pub fn is_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// True where cgroup v2 can keep a container from swapping. The root has no such file, so this process's own is looked for.
pub fn limits_swap() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    is_unified() && path.is_some_and(|p| Path::new(MOUNT).join(p).join("memory.swap.max").exists())
}

/// Makes and removes pods' cgroups.
pub struct Cgroups {
    trees: Trees,
    root: String,
    driver: CgroupDriver,
    per_qos: bool,
    pids_max: i64,
    /// Fires when a pod gets its cgroup or other limits: the weights of the classes follow.
    pub pods_changed: Notify,
}

impl Cgroups {
    /// By the settings and what the kernel has.
    pub fn new(config: &Config) -> Self {
        Self {
            trees: Trees { mount: MOUNT.into(), unified: is_unified() },
            root: config.cgroup_root.clone(),
            driver: config.cgroup_driver,
            per_qos: config.cgroups_per_qos,
            pids_max: config.pod_pids_max,
            pods_changed: Notify::new(),
        }
    }

    /// The path below a controller's tree of all pods, or of a class of them.
    fn class_path(&self, class: Option<&str>) -> String {
        let root = self.root.split('/').filter(|p| !p.is_empty());
        let names: Vec<String> = root.chain([KUBEPODS]).chain(class).map(str::to_owned).collect();
        self.path(&names)
    }

    /// The path of a pod: `kubepods`, `burstable`, `pod<uid>`.
    fn pod_path(&self, class: QosClass, uid: &str) -> String {
        let root = self.root.split('/').filter(|p| !p.is_empty());
        let class = match class {
            QosClass::Burstable => Some("burstable"),
            QosClass::BestEffort => Some("besteffort"),
            QosClass::Guaranteed => None,
        };
        let own = format!("pod{uid}");
        let names = root.chain([KUBEPODS]).chain(class).chain([own.as_str()]);
        self.path(&names.map(str::to_owned).collect::<Vec<_>>())
    }

    fn path(&self, names: &[String]) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => names.join("/"),
            CgroupDriver::Systemd => systemd::path(names),
        }
    }

    fn path_of(&self, pod: &Pod) -> String {
        self.pod_path(class(pod), spec::uid(pod))
    }

    /// The pod's cgroup as the runtime wants it named; empty where pods get none.
    pub fn parent_for_runtime(&self, pod: &Pod) -> String {
        let path = self.path_of(pod);
        match self.driver {
            _ if !self.per_qos => String::new(),
            CgroupDriver::Cgroupfs => format!("/{path}"),
            CgroupDriver::Systemd => systemd::unit(&path).to_owned(),
        }
    }

    /// Makes a cgroup with its limits, or gives one that is there these.
    async fn ensure(&self, path: &str, limits: Limits) -> io::Result<()> {
        match self.driver {
            CgroupDriver::Cgroupfs => self.trees.make(path)?,
            CgroupDriver::Systemd => systemd::ensure(path, limits, self.trees.unified).await?,
        }
        self.trees.apply(path, limits)
    }

    /// Makes the pod's cgroup with its limits.
    pub async fn ensure_pod(&self, pod: &Pod) -> io::Result<()> {
        if !self.per_qos {
            return Ok(());
        }
        let done = self.ensure(&self.path_of(pod), self.limits(pod)).await;
        self.pods_changed.notify_one();
        done
    }

    fn limits(&self, pod: &Pod) -> Limits {
        Limits { pids: Some(self.pids_max).filter(|max| *max > 0), ..of_pod(pod) }
    }

    /// Gives all pods together and the classes of them their limits.
    pub async fn apply_classes(&self, limits: &ClassLimits) -> io::Result<()> {
        let mut done = Ok(());
        for (class, limits) in limits.iter().filter(|_| self.per_qos) {
            // Memory that is in use may be more than the limit: the weights are written all the same.
            done = done.and(self.ensure(&self.class_path(*class), *limits).await);
        }
        done
    }

    /// Writes the pod's limits again; what the kernel refuses as long as containers have more, it takes later.
    pub async fn renew_limits(&self, pod: &Pod) -> io::Result<()> {
        if !self.per_qos {
            return Ok(());
        }
        let (path, limits) = (self.path_of(pod), self.limits(pod));
        if self.driver == CgroupDriver::Systemd {
            systemd::renew(&path, limits, self.trees.unified).await?;
        }
        self.trees.apply(&path, limits)
    }

    /// What the pod's cgroup says it uses.
    pub fn usage(&self, pod: &Pod) -> PodUsage {
        let path = self.path_of(pod);
        of_cgroup(|controller| self.trees.folder(controller, &path), self.trees.unified)
    }

    /// The path of the pod's cgroup, or of a container's in it, and what the kernel counts there.
    pub fn counts(&self, pod: &Pod, container: Option<&str>) -> Option<(String, Counts)> {
        let mut path = self.path_of(pod);
        if let Some(id) = container {
            let folder = self.memory_of_container(&path, id)?;
            path = format!("{path}/{}", folder.file_name()?.to_string_lossy());
        }
        let counts = counters::read(&|controller| self.trees.folder(controller, &path), self.trees.unified);
        Some((format!("/{path}"), counts))
    }

    /// A process of a container.
    pub fn process_of(&self, pod: &Pod, id: &str) -> Option<u32> {
        let folder = self.memory_of_container(&self.path_of(pod), id)?;
        fs::read_to_string(folder.join("cgroup.procs")).ok()?.lines().next()?.parse().ok()
    }

    /// The folder of a container's memory: its name has the id, and what the runtime's driver puts around it.
    fn memory_of_container(&self, pod: &str, id: &str) -> Option<PathBuf> {
        let folders = fs::read_dir(self.trees.folder("memory", pod)).ok()?.flatten();
        folders.filter(|f| f.file_name().to_string_lossy().contains(id)).map(|f| f.path()).next()
    }

    /// Why memory limits cannot shrink to what the pod and this container of it shall have now, if they cannot: both use
    /// more. The kernel would end processes for it, or refuse. Texts are upstream's.
    pub fn memory_in_the_way(&self, pod: &Pod, name: &str, id: &str, limit: i64) -> Option<String> {
        let path = self.path_of(pod);
        let used = |folder: Option<PathBuf>, limit: i64| {
            let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0)?;
            let memory = limited_memory(&folder?, self.trees.unified)?;
            (limit < memory.limit && memory.usage >= limit).then_some((limit, memory.usage))
        };
        let whole = Some(self.trees.folder("memory", &path));
        let of_pod = used(whole, of_pod(pod).memory.unwrap_or(0)).map(|(limit, usage)| {
            format!("attempting to set pod memory limit ({limit}) below current usage ({usage})")
        });
        let of_container = used(self.memory_of_container(&path, id), limit).map(|(limit, usage)| {
            format!(
                "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({usage})"
            )
        });
        let why = match (of_pod, of_container) {
            (None, None) => return None,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) => format!("[{one}, {other}]"),
        };
        Some(format!("cannot decrease memory limits: {why}"))
    }

    /// Removes the pod's cgroup; one that is gone counts as removed.
    pub async fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.remove_uid(spec::uid(pod)).await
    }

    /// Removes the cgroup of a pod of which only the uid is known.
    pub async fn remove_uid(&self, uid: &str) -> io::Result<()> {
        if !self.per_qos || uid.is_empty() {
            return Ok(());
        }
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            self.stop_and_remove(&self.pod_path(class, uid)).await?;
        }
        Ok(())
    }

    async fn stop_and_remove(&self, path: &str) -> io::Result<()> {
        if self.driver == CgroupDriver::Systemd && self.trees.has(path) {
            // One that it does not know is a folder like others.
            let stopped = systemd::stop(path).await;
            return self
                .trees
                .remove(path)
                .and(stopped.or_else(|e| if self.trees.has(path) { Err(e) } else { Ok(()) }));
        }
        self.trees.remove(path)
    }

    /// Removes the cgroups above the pods, at the end of an agent whose pods are gone.
    pub async fn remove_parents(&self) {
        for class in [Some("burstable"), Some("besteffort"), None] {
            let path = self.class_path(class);
            if self.driver == CgroupDriver::Systemd && self.trees.has(&path) {
                let _ = systemd::stop(&path).await;
            }
            self.trees.remove_empty(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cgroups(driver: CgroupDriver, root: &str) -> Cgroups {
        Cgroups {
            trees: Trees { mount: MOUNT.into(), unified: false },
            root: root.into(),
            driver,
            per_qos: true,
            pids_max: 0,
            pods_changed: Notify::new(),
        }
    }

    /// A kernel's files as far as a plain folder can show them: they are there before they are written.
    fn pod_folder(mount: &Path, unified: bool) -> (Cgroups, Pod, PathBuf) {
        let cgroups = Cgroups {
            trees: Trees { mount: mount.to_owned(), unified },
            pids_max: 77,
            ..cgroups(CgroupDriver::Cgroupfs, "/lab")
        };
        let limits = json!({"cpu": "500m", "memory": "64Mi"});
        let pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": limits}}]}}))
        .expect("a pod");
        (cgroups, pod, PathBuf::from("lab/kubepods/burstable/podu"))
    }

    fn written(dir: &Path, files: &[&str]) -> Vec<String> {
        files.iter().map(|f| fs::read_to_string(dir.join(f)).unwrap_or_default()).collect()
    }

    #[tokio::test]
    async fn version_two_gets_weight_quota_memory_and_pids() {
        let mount = tempfile::tempdir().expect("a folder");
        let (cgroups, pod, path) = pod_folder(mount.path(), true);
        cgroups.ensure_pod(&pod).await.expect("made");
        let dir = mount.path().join(&path);
        for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max"] {
            fs::write(dir.join(file), "").expect("a file of the kernel's");
        }
        cgroups.ensure_pod(&pod).await.expect("made again");
        let values = written(&dir, &["cpu.weight", "cpu.max", "memory.max", "pids.max"]);
        assert_eq!(values, ["10", "50000 100000", "67108864", "77"]);
        // Controllers are handed down on the way, the root's too.
        for above in ["", "lab", "lab/kubepods", "lab/kubepods/burstable"] {
            assert!(mount.path().join(above).join("cgroup.subtree_control").exists(), "{above}");
        }
        assert_eq!(cgroups.usage(&pod).processes, 0);
    }

    #[tokio::test]
    async fn version_one_gets_them_in_the_trees_there_are() {
        let mount = tempfile::tempdir().expect("a folder");
        for tree in ["cpu", "memory"] {
            fs::create_dir(mount.path().join(tree)).expect("made");
        }
        let (cgroups, pod, path) = pod_folder(mount.path(), false);
        cgroups.ensure_pod(&pod).await.expect("made");
        let (cpu, memory) = (mount.path().join("cpu").join(&path), mount.path().join("memory").join(&path));
        for file in ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"] {
            fs::write(cpu.join(file), "").expect("a file of the kernel's");
        }
        fs::write(memory.join("memory.limit_in_bytes"), "").expect("a file of the kernel's");
        cgroups.ensure_pod(&pod).await.expect("made again");
        assert_eq!(
            written(&cpu, &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
            ["256", "50000", "100000"]
        );
        assert_eq!(written(&memory, &["memory.limit_in_bytes"]), ["67108864"]);
        fs::write(memory.join("memory.usage_in_bytes"), "50000000").expect("a file of the kernel's");
        let mut smaller = pod.clone();
        let containers = smaller.spec.as_mut().map(|s| &mut s.containers);
        containers.expect("a spec")[0].resources =
            serde_json::from_value(json!({"limits": {"memory": "32Mi"}})).expect("resources");
        let in_the_way = |pod: &Pod| cgroups.memory_in_the_way(pod, "c", "id", 0);
        let text = "cannot decrease memory limits: attempting to set pod memory limit (33554432) below current usage (50000000)";
        assert_eq!((in_the_way(&pod), in_the_way(&smaller).as_deref()), (None, Some(text)));
        for (dir, file) in [
            (&memory, "memory.usage_in_bytes"),
            (&cpu, "cpu.shares"),
            (&cpu, "cpu.cfs_quota_us"),
            (&cpu, "cpu.cfs_period_us"),
            (&memory, "memory.limit_in_bytes"),
        ] {
            fs::remove_file(dir.join(file)).expect("a folder of the kernel's has none to remove");
        }
        cgroups.remove_pod(&pod).await.expect("removed");
        assert!(!cpu.exists() && !memory.exists());
    }

    #[test]
    fn names_follow_the_driver() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "a-b"}, "spec": {"containers": []}}))
                .expect("ok");
        let name = |driver, root| cgroups(driver, root).parent_for_runtime(&pod);
        assert_eq!(name(CgroupDriver::Cgroupfs, "/"), "/kubepods/besteffort/poda-b");
        assert_eq!(name(CgroupDriver::Cgroupfs, "/qd"), "/qd/kubepods/besteffort/poda-b");
        assert_eq!(name(CgroupDriver::Systemd, "/"), "kubepods-besteffort-poda_b.slice");
    }
}
