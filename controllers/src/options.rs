//! The settings of the loops, as data. Defaults are those of kube-controller-manager 1.36.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// As whom controllers write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Credentials {
    /// All as the process itself.
    #[default]
    Process,
    /// Each impersonates its service account.
    Impersonate,
    /// Each with its service account's own token.
    ServiceAccounts,
}

/// A certificate authority's two files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignerFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

/// Settings of the node life cycle.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Without a sign of life for so long a node counts as unreachable.
    pub monitor_grace: Duration,
    /// The same for a node that has never been ready.
    pub startup_grace: Duration,
    /// How often nodes are looked at.
    pub monitor_period: Duration,
    /// Nodes per second evicted in a healthy zone.
    pub eviction_rate: f64,
    /// The same when a large zone is partly down.
    pub secondary_eviction_rate: f64,
    /// Nodes from which a zone counts as large.
    pub large_cluster: usize,
    /// The share of nodes not ready from which a zone counts as partly down.
    pub unhealthy_zone: f64,
}

/// Settings of the horizontal pod autoscaler.
#[derive(Debug, Clone)]
pub struct AutoscalerOptions {
    /// Between two looks at an autoscaler.
    pub sync_period: Duration,
    /// Default window in which scaling down follows the highest recommendation.
    pub downscale_stabilization: Duration,
    /// Deviation from the target that is left alone.
    pub tolerance: f64,
    /// After its start a pod's CPU use is not trusted for so long.
    pub cpu_initialization: Duration,
    /// After its start a pod's readiness may still be its first.
    pub initial_readiness: Duration,
}

/// Settings of endpoint slices.
#[derive(Debug, Clone)]
pub struct SliceOptions {
    /// Endpoints in one slice at most.
    pub endpoints_per_slice: usize,
    /// Addresses mirrored of one Endpoints subset at most.
    pub mirrored_per_subset: usize,
    /// Changes of pods are collected for so long before slices are written.
    pub batch_period: Duration,
    /// The same for Endpoints.
    pub endpoints_batch_period: Duration,
    /// The same for mirroring.
    pub mirroring_batch_period: Duration,
}

/// Settings of certificate signing.
#[derive(Debug, Clone, Default)]
pub struct SigningOptions {
    /// The authority for every signer without one of its own.
    pub default: Option<SignerFiles>,
    /// `kubernetes.io/kubelet-serving`.
    pub kubelet_serving: Option<SignerFiles>,
    /// `kubernetes.io/kube-apiserver-client-kubelet`.
    pub kubelet_client: Option<SignerFiles>,
    /// `kubernetes.io/kube-apiserver-client`.
    pub client: Option<SignerFiles>,
    /// `kubernetes.io/legacy-unknown`.
    pub legacy: Option<SignerFiles>,
    /// Longest life of a certificate.
    pub duration: Duration,
}

/// Settings of addresses handed to nodes.
#[derive(Debug, Clone, Default)]
pub struct NetworkOptions {
    /// Whether nodes get pod ranges from here.
    pub allocate_node_cidrs: bool,
    /// Ranges of pod addresses, at most one a family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of service addresses; never handed to nodes.
    pub service_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub node_mask_v6: u8,
}

/// Settings of volumes.
#[derive(Debug, Clone)]
pub struct VolumeOptions {
    /// Directory below which the built-in local-path provisioner makes volumes, unless their class says otherwise.
    pub local_path_root: PathBuf,
    /// The class to be made for it at the start; empty: none.
    pub local_path_class: String,
    /// The image of pods that remove or empty directories: its program takes `remove DIR` and `scrub DIR`.
    pub helper_image: String,
    /// Volumes of unhealthy nodes stay attached until the node is declared out of service.
    pub disable_force_detach_on_timeout: bool,
    /// `--enable-dynamic-provisioning`
    pub provision: bool,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            local_path_root: "/var/lib/quarterdeck/local-path".into(),
            local_path_class: String::new(),
            // The image the node's agent brings along, so that machines without a registry work.
            helper_image: "registry.quarterdeck.local/pause:v1".into(),
            disable_force_detach_on_timeout: false,
            provision: true,
        }
    }
}

/// How many keys each of these controllers runs at a time.
#[derive(Debug, Clone)]
pub struct Workers {
    /// `--concurrent-deployment-syncs`
    pub deployment: usize,
    /// `--concurrent-replicaset-syncs`
    pub replicaset: usize,
    /// `--concurrent-rc-syncs`
    pub replicationcontroller: usize,
    /// `--concurrent-statefulset-syncs`
    pub statefulset: usize,
    /// `--concurrent-daemonset-syncs`
    pub daemonset: usize,
    /// `--concurrent-job-syncs`
    pub job: usize,
    /// `--concurrent-cron-job-syncs`
    pub cronjob: usize,
    /// `--concurrent-endpoint-syncs`
    pub endpoints: usize,
    /// `--concurrent-service-endpoint-syncs`
    pub endpointslice: usize,
    /// `--concurrent-gc-syncs`
    pub gc: usize,
    /// `--concurrent-namespace-syncs`
    pub namespace: usize,
    /// `--concurrent-resource-quota-syncs`
    pub resourcequota: usize,
    /// `--concurrent-serviceaccount-token-syncs`
    pub serviceaccount_token: usize,
    /// `--concurrent-ttl-after-finished-syncs`
    pub ttl_after_finished: usize,
    /// `--concurrent-horizontal-pod-autoscaler-syncs`
    pub autoscaler: usize,
    /// Numbers that were asked for of controllers with a fixed one: name and number.
    pub others: Vec<(&'static str, usize)>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            // Twice upstream's five to ten where a run is mostly waiting for the API server.
            deployment: 16,
            replicaset: 16,
            replicationcontroller: 8,
            statefulset: 8,
            daemonset: 4,
            job: 16,
            cronjob: 5,
            endpoints: 8,
            endpointslice: 8,
            gc: 32,
            namespace: 10,
            resourcequota: 8,
            serviceaccount_token: 5,
            ttl_after_finished: 5,
            autoscaler: 5,
            others: Vec::new(),
        }
    }
}

/// All settings of the loops.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--controllers`: `*`, names, and names with `-` in front.
    pub controllers: Vec<String>,
    /// As whom controllers write.
    pub credentials: Credentials,
    /// Workers of each controller.
    pub workers: Workers,
    /// Published to every namespace.
    pub root_ca: Option<Vec<u8>>,
    /// Signs the tokens of legacy token secrets, PEM.
    pub service_account_key: Option<Vec<u8>>,
    /// Issuer of those tokens.
    pub service_account_issuer: String,
    /// Node life cycle.
    pub nodes: NodeOptions,
    /// Autoscaler.
    pub autoscaler: AutoscalerOptions,
    /// Endpoint slices.
    pub slices: SliceOptions,
    /// Certificate signing.
    pub signing: SigningOptions,
    /// Node addresses.
    pub network: NetworkOptions,
    /// Finished pods beyond this number are deleted, oldest first; zero: never.
    pub terminated_pod_threshold: usize,
    /// Unused legacy tokens are removed after so long.
    pub legacy_token_cleanup: Duration,
    /// All quotas are counted anew this often.
    pub quota_sync_period: Duration,
    /// `--cluster-name`
    pub cluster_name: String,
    /// Volumes.
    pub volumes: VolumeOptions,
    /// How long workers may take to finish their keys on shutdown before they are cut off.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            controllers: vec!["*".into()],
            credentials: Credentials::default(),
            workers: Workers::default(),
            root_ca: None,
            service_account_key: None,
            service_account_issuer: "kubernetes/serviceaccount".into(),
            nodes: NodeOptions {
                monitor_grace: secs(50),
                startup_grace: secs(60),
                monitor_period: secs(5),
                eviction_rate: 0.1,
                secondary_eviction_rate: 0.01,
                large_cluster: 50,
                unhealthy_zone: 0.55,
            },
            autoscaler: AutoscalerOptions {
                sync_period: secs(15),
                downscale_stabilization: secs(300),
                tolerance: 0.1,
                cpu_initialization: secs(300),
                initial_readiness: secs(30),
            },
            slices: SliceOptions {
                endpoints_per_slice: 100,
                mirrored_per_subset: 1000,
                // Upstream's is none. Pods come and go in bursts; a twentieth of a second bounds the writes of a
                // service to twenty a second and is far below what a proxy takes to act on them.
                batch_period: Duration::from_millis(50),
                // The older kind has few readers left, and one object holds all of a service's addresses.
                endpoints_batch_period: Duration::from_millis(200),
                mirroring_batch_period: Duration::ZERO,
            },
            signing: SigningOptions { duration: secs(365 * 24 * 3600), ..SigningOptions::default() },
            network: NetworkOptions { node_mask_v4: 24, node_mask_v6: 64, ..NetworkOptions::default() },
            terminated_pod_threshold: 12_500,
            legacy_token_cleanup: secs(365 * 24 * 3600),
            quota_sync_period: secs(300),
            cluster_name: "kubernetes".into(),
            volumes: VolumeOptions::default(),
            // Upstream's ten seconds would leave a stopped container's half minute too short for the hand-over.
            shutdown_grace: secs(5),
        }
    }
}
