//! What the machine is and has, read from the kernel.

use std::fs;
use std::path::Path;

use crate::kubelet::cri::client::RuntimeVersion;

/// Facts about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPUs.
    pub cpus: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Swap, bytes.
    pub swap_bytes: u64,
    /// Size of the file system of pods, bytes.
    pub disk_bytes: u64,
    /// Huge pages: kernel's size in kB and their number.
    pub huge_pages: Vec<(u64, u64)>,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub os_image: String,
    /// `amd64`, `arm64`…
    pub architecture: &'static str,
    /// The machine's id.
    pub machine_id: String,
    /// The hardware's id.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// The runtime.
    pub runtime: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Go's name of the processor, as nodes are labelled.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(key));
    let kb = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

fn os_image(text: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn huge_pages() -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return vec![] };
    let mut sizes: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let kb = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = read(&e.path().join("nr_hugepages").to_string_lossy()).parse().ok()?;
            Some((kb, count))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// Space of a file system: (bytes, bytes free for users, inodes, inodes free).
pub fn disk(path: &Path) -> Option<(u64, u64, u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    Some((stat.blocks() * block, stat.blocks_available() * block, stat.files(), stat.files_available()))
}

/// Memory: (capacity, used by processes and unreclaimable caches), bytes. What the kernel can take back does
/// not count as used.
pub fn memory() -> (u64, u64) {
    let text = read("/proc/meminfo");
    let total = meminfo(&text, "MemTotal:");
    (total, total.saturating_sub(meminfo(&text, "MemAvailable:")))
}

impl Facts {
    /// Reads them.
    pub fn read(root_dir: &Path, runtime: &RuntimeVersion) -> Self {
        let memory = read("/proc/meminfo");
        let machine_id = read("/etc/machine-id");
        let system_uuid = read("/sys/class/dmi/id/product_uuid");
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: meminfo(&memory, "MemTotal:"),
            swap_bytes: meminfo(&memory, "SwapTotal:"),
            disk_bytes: disk(root_dir).map_or(0, |d| d.0),
            huge_pages: huge_pages(),
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image: os_image(&read("/etc/os-release")),
            architecture: go_arch(),
            system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
            machine_id,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            runtime: format!("{}://{}", runtime.name, runtime.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_texts() {
        assert_eq!(meminfo("MemTotal:       16 kB\nSwapTotal: 2 kB\n", "SwapTotal:"), 2048);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let version = RuntimeVersion { name: "containerd".into(), version: "1".into() };
        let facts = Facts::read(Path::new("/"), &version);
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.disk_bytes > 0, "{facts:?}");
        assert_eq!(facts.runtime, "containerd://1");
    }
}
