//! What the kubelet is told: resolved from flags, the configuration file and defaults by [`crate::cli`], or
//! filled in directly by whoever embeds it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use super::names_in_pod::ClusterDns;

/// How pods' cgroups are named and made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Plain folders (`/kubepods/burstable/pod…`).
    Cgroupfs,
    /// systemd slices (`/kubepods.slice/…`).
    Systemd,
}

/// The kubelet's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The hostname reported as an address.
    pub hostname: String,
    /// Addresses of the node, primary first.
    pub node_ips: Vec<IpAddr>,
    /// Data of pods and plugins.
    pub root_dir: PathBuf,
    /// Certificates.
    pub cert_dir: PathBuf,
    /// Logs of pods.
    pub pod_logs_dir: PathBuf,
    /// Links to logs under the names that collectors look for; `None` makes none.
    pub container_logs_dir: Option<PathBuf>,
    /// The runtime's socket.
    pub runtime_endpoint: String,
    /// Folder of static pods.
    pub static_pod_path: Option<PathBuf>,
    /// Name resolution in pods.
    pub dns: ClusterDns,
    /// Where the server listens.
    pub address: IpAddr,
    /// The server's port.
    pub port: u16,
    /// Port of the plain health endpoint on localhost; 0 is none.
    pub healthz_port: u16,
    /// Most pods on this node.
    pub max_pods: u32,
    /// Most processes in one pod; 0 is no limit.
    pub pod_pids_max: i64,
    /// Labels the node registers with.
    pub node_labels: Vec<(String, String)>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Make the Node object if there is none.
    pub register_node: bool,
    /// Register as unschedulable.
    pub unschedulable: bool,
    /// Reported as `spec.providerID`.
    pub provider_id: Option<String>,
    /// Renewals of the lease.
    pub lease_duration: Duration,
    /// The node's status is computed this often and sent when it changed.
    pub status_update_frequency: Duration,
    /// An unchanged status is sent this often.
    pub status_report_frequency: Duration,
    /// A running pod's files and state are checked this often.
    pub sync_frequency: Duration,
    /// Under which cgroup pods are.
    pub cgroup_root: String,
    /// Pods get cgroups by class.
    pub cgroups_per_qos: bool,
    /// Naming of cgroups.
    pub cgroup_driver: CgroupDriver,
    /// CPU limits become quotas.
    pub cpu_cfs_quota: bool,
    /// Only the process that is out of memory is ended, not its whole container (which v2 can).
    pub single_process_oom_kill: bool,
    /// Containers without a profile get the runtime's.
    pub seccomp_default: bool,
    /// Largest log of one container, bytes; then it is rotated.
    pub log_bytes_max: u64,
    /// Rotated logs kept.
    pub log_files_max: usize,
    /// Only one image is pulled at a time.
    pub serialize_image_pulls: bool,
    /// Disk use from which images are removed, percent.
    pub image_gc_high_percent: u8,
    /// Disk use down to which images are removed, percent.
    pub image_gc_low_percent: u8,
    /// Configuration of programs that know registries' credentials.
    pub credential_provider_config: Option<PathBuf>,
    /// Where those programs are.
    pub credential_provider_bin_dir: Option<PathBuf>,
    /// An image is left alone for this long after it was used last.
    pub image_gc_min_age: Duration,
    /// An image unused for this long is removed however much room there is; zero keeps it.
    pub image_gc_max_age: Duration,
    /// Sysctls beyond the safe ones that pods may set; a trailing `*` matches all below.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Memory kept from pods, bytes.
    pub memory_reserved_bytes: u64,
    /// CPU kept from pods, thousandths.
    pub cpu_reserved_milli: i64,
    /// Thresholds that evict pods (`memory.available` → `100Mi`, `nodefs.available` → `10%`).
    pub eviction_hard: Vec<(String, String)>,
    /// Thresholds that evict pods once they have been met for the given time.
    pub eviction_soft: Vec<(String, String, Duration)>,
    /// What must be free beyond a threshold before its condition ends.
    pub eviction_minimum_reclaim: Vec<(String, String)>,
    /// Longest grace of a pod evicted by a soft threshold, seconds.
    pub eviction_max_pod_grace_secs: i64,
    /// A pressure condition stays this long after its cause has gone.
    pub eviction_pressure_transition: Duration,
    /// How clients of the server prove who they are.
    pub server_auth: ServerAuth,
    /// Serve `/logs`, exec, attach and port-forward.
    pub debugging_handlers: bool,
    /// Ask for a serving certificate by CSR instead of signing one's own.
    pub server_tls_bootstrap: bool,
}

/// Who may use the server.
#[derive(Clone, Debug, Default)]
pub struct ServerAuth {
    /// Certificate authority of clients, PEM file.
    pub client_ca_file: Option<PathBuf>,
    /// Requests without a name are let in as `system:anonymous`.
    pub anonymous: bool,
    /// Ask the API about tokens.
    pub webhook_authn: bool,
    /// Ask the API about rights; otherwise everybody with a name may do everything.
    pub webhook_authz: bool,
    /// Serving certificate, PEM file.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key.
    pub tls_key_file: Option<PathBuf>,
}

/// Memory below which pods are evicted, when nothing is configured; likewise disks and inodes. Upstream's.
pub const EVICTION_HARD_DEFAULT: &[(&str, &str)] = &[
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

impl Config {
    /// Upstream's defaults for a node of this name and addresses.
    pub fn new(node_name: &str, node_ips: Vec<IpAddr>) -> Self {
        let root = PathBuf::from("/var/lib/kubelet");
        Self {
            node_name: node_name.to_owned(),
            hostname: node_name.to_owned(),
            node_ips,
            cert_dir: root.join("pki"),
            root_dir: root,
            pod_logs_dir: "/var/log/pods".into(),
            container_logs_dir: Some("/var/log/containers".into()),
            runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            static_pod_path: None,
            dns: ClusterDns { domain: "cluster.local".into(), ..Default::default() },
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            healthz_port: 10248,
            max_pods: 110,
            pod_pids_max: 0,
            node_labels: vec![],
            taints: vec![],
            register_node: true,
            unschedulable: false,
            provider_id: None,
            lease_duration: Duration::from_secs(40),
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            sync_frequency: Duration::from_secs(60),
            cgroup_root: "/".into(),
            cgroups_per_qos: true,
            cgroup_driver: CgroupDriver::Cgroupfs,
            cpu_cfs_quota: true,
            single_process_oom_kill: false,
            seccomp_default: false,
            log_bytes_max: 10 << 20,
            log_files_max: 5,
            serialize_image_pulls: true,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            credential_provider_config: None,
            credential_provider_bin_dir: None,
            image_gc_min_age: Duration::from_secs(120),
            image_gc_max_age: Duration::ZERO,
            allowed_unsafe_sysctls: vec![],
            memory_reserved_bytes: 0,
            cpu_reserved_milli: 0,
            eviction_hard: EVICTION_HARD_DEFAULT.iter().map(|(s, v)| ((*s).into(), (*v).into())).collect(),
            eviction_soft: vec![],
            eviction_minimum_reclaim: vec![],
            eviction_max_pod_grace_secs: 0,
            eviction_pressure_transition: Duration::from_secs(300),
            server_auth: ServerAuth::default(),
            debugging_handlers: true,
            server_tls_bootstrap: false,
        }
    }
}

/// Go's durations: `10s`, `1m30s`, `200ms`, `2h`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = (!rest.is_empty()).then_some(Duration::ZERO)?;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let secs = match &rest[..unit_len] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[unit_len..];
        total += Duration::try_from_secs_f64(number * secs).ok()?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1m30s", Some(90_000)),
            ("200ms", Some(200)),
            ("1.5h", Some(5_400_000)),
            ("", None),
            ("5", None),
            ("5d", None),
            ("s", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
