//! Use of one pod as a whole, from its cgroup and its folders.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// CPU time since it started, nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that cannot be taken back, bytes.
    pub memory_working_set_bytes: u64,
    /// All memory, caches too, bytes.
    pub memory_usage_bytes: u64,
    /// Processes.
    pub processes: u64,
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.split(' ').next() == Some(key))?;
    line.split(' ').nth(1)?.parse().ok()
}

/// Reads a cgroup: `dir` gives the folder of a controller (v1) or the one folder (v2).
pub fn of_cgroup(dir: impl Fn(&str) -> std::path::PathBuf, unified: bool) -> PodUsage {
    let memory = dir("memory");
    let (usage, inactive) = if unified {
        (number(&memory.join("memory.current")), field(&memory.join("memory.stat"), "inactive_file"))
    } else {
        (
            number(&memory.join("memory.usage_in_bytes")),
            field(&memory.join("memory.stat"), "total_inactive_file"),
        )
    };
    let cpu = if unified {
        field(&dir("cpu").join("cpu.stat"), "usage_usec").map(|micros| micros * 1000)
    } else {
        number(&dir("cpuacct").join("cpuacct.usage"))
    };
    let usage = usage.unwrap_or(0);
    PodUsage {
        cpu_nanos: cpu.unwrap_or(0),
        memory_working_set_bytes: usage.saturating_sub(inactive.unwrap_or(0)),
        memory_usage_bytes: usage,
        processes: number(&dir("pids").join("pids.current")).unwrap_or(0),
    }
}

/// Memory of a cgroup that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitedMemory {
    /// All memory, caches too, bytes.
    pub usage: u64,
    /// Most of it, bytes; a very large number where there is none.
    pub limit: u64,
}

/// Reads usage and limit of a cgroup's memory, from the controller's folder (v1) or the one folder (v2).
pub fn limited_memory(dir: &Path, unified: bool) -> Option<LimitedMemory> {
    let (usage, limit) = if unified {
        // `max` is no number.
        (number(&dir.join("memory.current")), number(&dir.join("memory.max")).or(Some(u64::MAX)))
    } else {
        (number(&dir.join("memory.usage_in_bytes")), number(&dir.join("memory.limit_in_bytes")))
    };
    Some(LimitedMemory { usage: usage?, limit: limit? })
}

/// Bytes that a folder takes on its own file system; other file systems mounted in it do not count.
pub fn disk_bytes(dir: &Path) -> u64 {
    let Ok(root) = fs::symlink_metadata(dir) else { return 0 };
    walk(dir, root.dev())
}

fn walk(dir: &Path, device: u64) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.dev() != device => 0,
        Ok(meta) if meta.is_dir() => meta.blocks() * 512 + walk(&entry.path(), device),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_cgroup_versions() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        write("memory.usage_in_bytes", "1000\n");
        write("memory.current", "1000\n");
        write("memory.stat", "total_inactive_file 300\ninactive_file 300\n");
        write("cpuacct.usage", "5000\n");
        write("cpu.stat", "usage_usec 5\n");
        write("pids.current", "3\n");
        for unified in [false, true] {
            let usage = of_cgroup(|_| dir.path().to_owned(), unified);
            assert_eq!(
                usage,
                PodUsage {
                    cpu_nanos: 5000,
                    memory_working_set_bytes: 700,
                    memory_usage_bytes: 1000,
                    processes: 3
                }
            );
        }
        assert!(disk_bytes(dir.path()) > 0);
    }
}
