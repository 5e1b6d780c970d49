//! Cgroups of pods by class, on cgroup v1 (one tree a controller) and v2 (one tree). Containers' own cgroups
//! are the runtime's business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::cgroup_limits::{ClassLimits, Limits, cpu_weight, of_pod};
use super::config::{CgroupDriver, Config};
use super::cri::resources::QUOTA_PERIOD_MICROS;
use super::pod::qos::{QosClass, class};
use super::pod::spec;
use super::stats::usage::{PodUsage, limited_memory, of_cgroup};

/// Where the kernel shows cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
/// The cgroup of all pods.
const KUBEPODS: &str = "kubepods";
/// Controllers of v1 in whose trees pods get a folder.
const CONTROLLERS: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "systemd", "unified"];

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
    mount: PathBuf,
    root: String,
    driver: CgroupDriver,
    per_qos: bool,
    unified: bool,
    pids_max: i64,
    /// Fires when a pod gets its cgroup or other limits: the weights of the classes follow.
    pub pods_changed: Notify,
}

impl Cgroups {
    /// By the settings and what the kernel has.
    pub fn new(config: &Config) -> Self {
        Self {
            mount: MOUNT.into(),
            root: config.cgroup_root.clone(),
            driver: config.cgroup_driver,
            per_qos: config.cgroups_per_qos,
            unified: is_unified(),
            pids_max: config.pod_pids_max,
            pods_changed: Notify::new(),
        }
    }

    /// The names from the root down to the cgroup of all pods.
    fn parent_names(&self) -> Vec<String> {
        let root = self.root.split('/').filter(|p| !p.is_empty());
        root.chain([KUBEPODS]).map(str::to_owned).collect()
    }

    /// The names from the root down to the pod: `kubepods`, `burstable`, `pod<uid>`.
    fn names(&self, class: QosClass, uid: &str) -> Vec<String> {
        let mut names = self.parent_names();
        match class {
            QosClass::Burstable => names.push("burstable".into()),
            QosClass::BestEffort => names.push("besteffort".into()),
            QosClass::Guaranteed => {}
        }
        names.push(format!("pod{uid}"));
        names
    }

    /// The path below a controller's tree.
    fn path(&self, names: &[String]) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => names.join("/"),
            CgroupDriver::Systemd => {
                let escaped: Vec<String> = names.iter().map(|n| n.replace('-', "_")).collect();
                let slices = (1..=escaped.len()).map(|n| format!("{}.slice", escaped[..n].join("-")));
                slices.collect::<Vec<_>>().join("/")
            }
        }
    }

    /// The pod's cgroup as the runtime wants it named; empty where pods get none.
    pub fn parent_for_runtime(&self, pod: &Pod) -> String {
        if !self.per_qos {
            return String::new();
        }
        let path = self.path(&self.names(class(pod), spec::uid(pod)));
        match self.driver {
            CgroupDriver::Cgroupfs => format!("/{path}"),
            CgroupDriver::Systemd => path.rsplit('/').next().unwrap_or_default().to_owned(),
        }
    }

    fn trees(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.mount.clone()];
        }
        CONTROLLERS.iter().map(|c| self.mount.join(c)).filter(|p| p.is_dir()).collect()
    }

    /// Makes the pod's cgroup with its limits. With systemd the runtime asks it for the slice.
    pub fn ensure_pod(&self, pod: &Pod) -> io::Result<()> {
        if !self.per_qos || self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        let path = self.path(&self.names(class(pod), spec::uid(pod)));
        for tree in self.trees() {
            let dir = tree.join(&path);
            self.make(&tree, &dir)?;
        }
        self.pods_changed.notify_one();
        self.apply(&path, self.limits(pod))
    }

    fn limits(&self, pod: &Pod) -> Limits {
        Limits { pids: Some(self.pids_max).filter(|max| *max > 0), ..of_pod(pod) }
    }

    /// Gives all pods together and the classes of them their limits.
    pub fn apply_classes(&self, limits: &ClassLimits) -> io::Result<()> {
        if !self.per_qos || self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        let parent = self.parent_names();
        let mut done = Ok(());
        for (class, limits) in limits {
            let path = parent.iter().map(String::as_str).chain(*class).collect::<Vec<_>>().join("/");
            for tree in self.trees() {
                self.make(&tree, &tree.join(&path))?;
            }
            // Memory that is in use may be more than the limit: the weights are written all the same.
            done = done.and(self.apply(&path, *limits));
        }
        done
    }

    /// Writes the pod's limits again; what the kernel refuses as long as containers have more, it takes later.
    pub fn renew_limits(&self, pod: &Pod) -> io::Result<()> {
        if !self.per_qos || self.driver == CgroupDriver::Systemd {
            return Ok(());
        }
        self.apply(&self.path(&self.names(class(pod), spec::uid(pod))), self.limits(pod))
    }

    /// What the pod's cgroup says it uses.
    pub fn usage(&self, pod: &Pod) -> PodUsage {
        let path = self.path(&self.names(class(pod), spec::uid(pod)));
        of_cgroup(|controller| self.folder(controller, &path), self.unified)
    }

    /// The folder of a cgroup in a controller's tree.
    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        if self.unified { self.mount.join(path) } else { self.mount.join(controller).join(path) }
    }

    /// Why memory limits cannot shrink to what the pod and this container of it shall have now, if they cannot: both use
    /// more. The kernel would end processes for it, or refuse. Texts are upstream's.
    pub fn memory_in_the_way(&self, pod: &Pod, name: &str, id: &str, limit: i64) -> Option<String> {
        let path = self.path(&self.names(class(pod), spec::uid(pod)));
        let used = |path: &str, limit: i64| {
            let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0)?;
            let memory = limited_memory(&self.folder("memory", path), self.unified)?;
            (limit < memory.limit && memory.usage >= limit).then_some((limit, memory.usage))
        };
        let of_pod = used(&path, of_pod(pod).memory.unwrap_or(0)).map(|(limit, usage)| {
            format!("attempting to set pod memory limit ({limit}) below current usage ({usage})")
        });
        let of_container = used(&format!("{path}/{id}"), limit).map(|(limit, usage)| {
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

    fn make(&self, tree: &Path, dir: &Path) -> io::Result<()> {
        let Ok(below) = dir.strip_prefix(tree) else { return Ok(()) };
        let mut path = tree.to_owned();
        for part in below.components() {
            if self.unified {
                // Controllers must be handed down before a child can have them.
                for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
                    let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
            let parent = path.clone();
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => inherit_cpuset(&parent, &path)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn apply(&self, path: &str, limits: Limits) -> io::Result<()> {
        let write = |tree: &str, file: &str, value: String| -> io::Result<()> {
            let base = if self.unified { self.mount.clone() } else { self.mount.join(tree) };
            let target = base.join(path).join(file);
            if target.exists() { fs::write(target, value) } else { Ok(()) }
        };
        if self.unified {
            write("", "cpu.weight", cpu_weight(limits.shares).to_string())?;
            if let Some(quota) = limits.quota {
                write("", "cpu.max", format!("{quota} {QUOTA_PERIOD_MICROS}"))?;
            }
            if let Some(memory) = limits.memory {
                write("", "memory.max", memory.to_string())?;
            }
        } else {
            write("cpu", "cpu.shares", limits.shares.to_string())?;
            if let Some(quota) = limits.quota {
                write("cpu", "cpu.cfs_period_us", QUOTA_PERIOD_MICROS.to_string())?;
                write("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            }
            if let Some(memory) = limits.memory {
                write("memory", "memory.limit_in_bytes", memory.to_string())?;
            }
        }
        if let Some(pids) = limits.pids {
            write("pids", "pids.max", pids.to_string())?;
        }
        Ok(())
    }

    /// Removes the pod's cgroup; one that is gone counts as removed.
    pub fn remove_pod(&self, pod: &Pod) -> io::Result<()> {
        self.remove_uid(spec::uid(pod))
    }

    /// Removes the cgroup of a pod of which only the uid is known.
    pub fn remove_uid(&self, uid: &str) -> io::Result<()> {
        if !self.per_qos || self.driver == CgroupDriver::Systemd || uid.is_empty() {
            return Ok(());
        }
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            let path = self.path(&self.names(class, uid));
            for tree in self.trees() {
                remove_tree(&tree.join(&path))?;
            }
        }
        Ok(())
    }

    /// Removes the cgroups above the pods, at the end of an agent whose pods are gone.
    pub fn remove_parents(&self) {
        let parent = self.parent_names().join("/");
        for tree in self.trees() {
            for class in ["burstable", "besteffort", ""] {
                let _ = fs::remove_dir(tree.join(&parent).join(class));
            }
        }
    }
}

/// A new cpuset accepts no process before it has CPUs and memory nodes.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), child.join(file));
        if to.exists() && parent.join("cpuset.sched_load_balance").exists() {
            fs::write(to, fs::read(from)?)?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cgroups(driver: CgroupDriver, root: &str) -> Cgroups {
        Cgroups {
            mount: MOUNT.into(),
            root: root.into(),
            driver,
            per_qos: true,
            unified: false,
            pids_max: 0,
            pods_changed: Notify::new(),
        }
    }

    /// A kernel's files as far as a plain folder can show them: they are there before they are written.
    fn pod_folder(mount: &Path, unified: bool) -> (Cgroups, Pod, PathBuf) {
        let cgroups = Cgroups {
            mount: mount.to_owned(),
            unified,
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

    #[test]
    fn version_two_gets_weight_quota_memory_and_pids() {
        let mount = tempfile::tempdir().expect("a folder");
        let (cgroups, pod, path) = pod_folder(mount.path(), true);
        cgroups.ensure_pod(&pod).expect("made");
        let dir = mount.path().join(&path);
        for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max"] {
            fs::write(dir.join(file), "").expect("a file of the kernel's");
        }
        cgroups.ensure_pod(&pod).expect("made again");
        let values = written(&dir, &["cpu.weight", "cpu.max", "memory.max", "pids.max"]);
        assert_eq!(values, ["10", "50000 100000", "67108864", "77"]);
        // Controllers are handed down on the way, the root's too.
        for above in ["", "lab", "lab/kubepods", "lab/kubepods/burstable"] {
            assert!(mount.path().join(above).join("cgroup.subtree_control").exists(), "{above}");
        }
        assert_eq!(cgroups.usage(&pod).processes, 0);
    }

    #[test]
    fn version_one_gets_them_in_the_trees_there_are() {
        let mount = tempfile::tempdir().expect("a folder");
        for tree in ["cpu", "memory"] {
            fs::create_dir(mount.path().join(tree)).expect("made");
        }
        let (cgroups, pod, path) = pod_folder(mount.path(), false);
        cgroups.ensure_pod(&pod).expect("made");
        let (cpu, memory) = (mount.path().join("cpu").join(&path), mount.path().join("memory").join(&path));
        for file in ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"] {
            fs::write(cpu.join(file), "").expect("a file of the kernel's");
        }
        fs::write(memory.join("memory.limit_in_bytes"), "").expect("a file of the kernel's");
        cgroups.ensure_pod(&pod).expect("made again");
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
        cgroups.remove_pod(&pod).expect("removed");
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
