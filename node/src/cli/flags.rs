//! The kubelet's flags.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args as _, FromArgMatches};

/// Flags of the kubelet. What a flag does not say, the configuration file says; what neither says is upstream's
/// default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct KubeletArgs {
    /// Configuration file (KubeletConfiguration).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder of `*.conf` files that are laid over the configuration file, in order of their names.
    #[arg(long)]
    pub config_dir: Option<PathBuf>,
    /// Kubeconfig file. With --bootstrap-kubeconfig it is written once the node has its certificate.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Kubeconfig file with which the node asks for its first certificate.
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Socket of the container runtime; without it the agent starts a containerd of its own.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Socket of the image service, where it is not the runtime's.
    #[arg(long)]
    pub image_service_endpoint: Option<String>,
    /// Name of this node; the host name when absent.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Addresses of this node, one or a dual-stack pair.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels to register with, `key=value,…`.
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints to register with, `key=value:effect,…`.
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Make the Node object.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub register_node: Option<bool>,
    /// Register as schedulable.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub register_schedulable: Option<bool>,
    /// Identifies the machine to the cloud.
    #[arg(long)]
    pub provider_id: Option<String>,
    /// Addresses of the cluster's DNS.
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    #[arg(long)]
    pub cluster_domain: Option<String>,
    /// The machine's resolver settings.
    #[arg(long)]
    pub resolv_conf: Option<PathBuf>,
    /// Data of pods and plugins.
    #[arg(long)]
    pub root_dir: Option<PathBuf>,
    /// Certificates.
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    /// Logs of pods.
    #[arg(long)]
    pub pod_logs_dir: Option<PathBuf>,
    /// Folder of static pods.
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Where the server listens.
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// The server's port.
    #[arg(long)]
    pub port: Option<u16>,
    /// Port of plain health answers on localhost; 0 is none.
    #[arg(long)]
    pub healthz_port: Option<u16>,
    /// Authority of the server's clients.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// The server's certificate.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Let unnamed clients in as system:anonymous.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Ask the API about tokens.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub authentication_token_webhook: Option<bool>,
    /// `Webhook` asks the API about rights, `AlwaysAllow` does not.
    #[arg(long)]
    pub authorization_mode: Option<String>,
    /// Renew the client certificate by itself.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub rotate_certificates: Option<bool>,
    /// Ask for a serving certificate too.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub rotate_server_certificates: Option<bool>,
    /// Most pods on this node.
    #[arg(long)]
    pub max_pods: Option<u32>,
    /// Most processes in one pod.
    #[arg(long)]
    pub pod_max_pids: Option<i64>,
    /// `cgroupfs` or `systemd`.
    #[arg(long)]
    pub cgroup_driver: Option<String>,
    /// Under which cgroup pods are.
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// Give pods cgroups by class.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub cgroups_per_qos: Option<bool>,
    /// Thresholds that evict pods, `memory.available<100Mi,…`.
    #[arg(long, value_delimiter = ',')]
    pub eviction_hard: Vec<String>,
    /// Thresholds that evict pods after a grace period, `memory.available<300Mi,…`.
    #[arg(long, value_delimiter = ',')]
    pub eviction_soft: Vec<String>,
    /// Grace periods of soft thresholds, `memory.available=1m30s,…`.
    #[arg(long, value_delimiter = ',')]
    pub eviction_soft_grace_period: Vec<String>,
    /// What must be free beyond a threshold before its condition ends, `memory.available=0Mi,…`.
    #[arg(long, value_delimiter = ',')]
    pub eviction_minimum_reclaim: Vec<String>,
    /// Longest grace, in seconds, of a pod evicted by a soft threshold.
    #[arg(long)]
    pub eviction_max_pod_grace_period: Option<i64>,
    /// A pressure condition stays this long after its cause has gone.
    #[arg(long)]
    pub eviction_pressure_transition_period: Option<String>,
    /// Disk use, in percent, from which unused images are removed.
    #[arg(long)]
    pub image_gc_high_threshold: Option<u8>,
    /// Disk use, in percent, down to which unused images are removed.
    #[arg(long)]
    pub image_gc_low_threshold: Option<u8>,
    /// An image is left alone for this long after it was used last.
    #[arg(long)]
    pub minimum_image_ttl_duration: Option<String>,
    /// Configuration of programs that know registries' credentials (CredentialProviderConfig).
    #[arg(long)]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Where those programs are.
    #[arg(long)]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Kept from pods for Kubernetes, `cpu=100m,memory=…`.
    #[arg(long, value_delimiter = ',')]
    pub kube_reserved: Vec<String>,
    /// Kept from pods for the system.
    #[arg(long, value_delimiter = ',')]
    pub system_reserved: Vec<String>,
    /// Sysctls pods may set beyond the safe ones.
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Largest log of one container.
    #[arg(long)]
    pub container_log_max_size: Option<String>,
    /// Rotated logs kept.
    #[arg(long)]
    pub container_log_max_files: Option<usize>,
    /// How often a running pod is checked.
    #[arg(long)]
    pub sync_frequency: Option<String>,
    /// How often the node's status is computed.
    #[arg(long)]
    pub node_status_update_frequency: Option<String>,
    /// Pull one image at a time.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub serialize_image_pulls: Option<bool>,
    /// Containers without a profile get the runtime's.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub seccomp_default: Option<bool>,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    pub feature_gates: Option<String>,
    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    pub cloud_provider: Option<String>,
    /// Accepted for compatibility: the sandbox image is the runtime's setting.
    #[arg(long, hide = true)]
    pub pod_infra_container_image: Option<String>,
    /// Accepted for compatibility.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    pub fail_swap_on: Option<bool>,
    /// Verbosity.
    #[arg(short = 'v', long = "v", hide = true)]
    pub verbosity: Option<u8>,
}

impl KubeletArgs {
    /// Builds them from flags written as on a command line.
    pub fn from_flags(flags: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("kubelet").no_binary_name(true));
        Self::from_arg_matches(&command.try_get_matches_from(flags)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_as_upstream_writes_them() {
        let flags = ["--node-ip=10.0.0.1,fd00::1", "--register-node=false", "--rotate-certificates", "-v=4"];
        let args = KubeletArgs::from_flags(flags.map(str::to_owned)).expect("parsed");
        assert_eq!(args.node_ip.len(), 2);
        assert_eq!((args.register_node, args.rotate_certificates), (Some(false), Some(true)));
        assert!(KubeletArgs::from_flags(["--no-such-flag".to_owned()]).is_err());
    }
}
