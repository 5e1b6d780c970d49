//! Cgroups as the kernel's files: one tree a controller (v1) or one in all (v2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::kubelet::cgroup_limits::{Limits, cpu_weight};
use crate::kubelet::cri::resources::QUOTA_PERIOD_MICROS;

/// Controllers of v1 in whose trees pods get a folder.
const CONTROLLERS: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "systemd", "unified"];

/// The kernel's trees.
pub struct Trees {
    /// Where they are mounted.
    pub mount: PathBuf,
    /// Cgroup v2 alone.
    pub unified: bool,
}

impl Trees {
    fn all(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.mount.clone()];
        }
        CONTROLLERS.iter().map(|c| self.mount.join(c)).filter(|p| p.is_dir()).collect()
    }

    /// The folder of a cgroup in a controller's tree.
    pub fn folder(&self, controller: &str, path: &str) -> PathBuf {
        if self.unified { self.mount.join(path) } else { self.mount.join(controller).join(path) }
    }

    /// True if any tree has the cgroup.
    pub fn has(&self, path: &str) -> bool {
        self.all().iter().any(|tree| tree.join(path).exists())
    }

    /// Makes a cgroup and those above it.
    pub fn make(&self, path: &str) -> io::Result<()> {
        self.all().iter().try_for_each(|tree| self.make_in(tree, path))
    }

    fn make_in(&self, tree: &Path, below: &str) -> io::Result<()> {
        let mut path = tree.to_owned();
        for part in Path::new(below).components() {
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

    /// Writes limits where the kernel has files for them.
    pub fn apply(&self, path: &str, limits: Limits) -> io::Result<()> {
        let write = |tree: &str, file: &str, value: String| -> io::Result<()> {
            let target = self.folder(tree, path).join(file);
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

    /// Removes a cgroup with those below it; one that is gone counts as removed.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.all().iter().try_for_each(|tree| remove_tree(&tree.join(path)))
    }

    /// Removes a cgroup that has none below it; one that is used stays.
    pub fn remove_empty(&self, path: &str) {
        for tree in self.all() {
            let _ = fs::remove_dir(tree.join(path));
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
