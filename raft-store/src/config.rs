//! What a member is started with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{auth::TokenSpec, network::Network, tls::TlsFiles};

/// Whether the cluster is to be made or is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterState {
    /// Every member of `initial_cluster` starts for the first time.
    #[default]
    New,
    /// This member was added to a running cluster and joins it.
    Existing,
}

/// When history is compacted without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    #[default]
    Off,
    /// Keep this much time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// Everything a member needs to know. Defaults are etcd's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this member.
    pub name: String,
    /// Where its files go.
    pub data_dir: PathBuf,
    /// Where its log goes, on a disk of its own perhaps; without, to its other files.
    pub wal_dir: Option<PathBuf>,
    /// Where it listens for clients; none when it is only embedded.
    pub listen_client_urls: Vec<String>,
    /// What clients are told.
    pub advertise_client_urls: Vec<String>,
    /// Where it listens for its peers; none for a member that stays alone.
    pub listen_peer_urls: Vec<String>,
    /// What its peers are told.
    pub initial_advertise_peer_urls: Vec<String>,
    /// Where HTTP is served without gRPC; the client URLs then serve gRPC alone.
    pub listen_client_http_urls: Vec<String>,
    /// Where only metrics and health are served.
    pub listen_metrics_urls: Vec<String>,
    /// Names and peer URLs of the first members.
    pub initial_cluster: Vec<(String, String)>,
    /// Whether the cluster is new.
    pub initial_cluster_state: ClusterState,
    /// Tells clusters with the same addresses apart.
    pub initial_cluster_token: String,
    /// Entries between two points from which the log may be dropped.
    pub snapshot_count: u64,
    /// Entries kept behind that point for members that lag a little.
    pub snapshot_catchup_entries: u64,
    /// Bytes the state may take before writes are refused; 0 for no limit.
    pub quota_backend_bytes: u64,
    /// When history is compacted by itself.
    pub auto_compaction: AutoCompaction,
    /// Largest request in bytes.
    pub max_request_bytes: usize,
    /// Most operations on a path through a transaction.
    pub max_txn_ops: usize,
    /// Most learners at a time.
    pub max_learners: usize,
    /// Time between two heartbeats of the leader.
    pub heartbeat_interval: Duration,
    /// Time without a leader after which another is elected.
    pub election_timeout: Duration,
    /// TLS towards clients.
    pub client_tls: TlsFiles,
    /// TLS towards peers.
    pub peer_tls: TlsFiles,
    /// How tokens are made.
    pub auth_token: TokenSpec,
    /// How long a simple token lives after its last use.
    pub auth_token_ttl: Duration,
    /// Origins that browsers may call from; empty, or `*`, for any.
    pub cors: Vec<String>,
    /// Host names taken in plain HTTP requests; empty, or `*`, for any.
    pub host_whitelist: Vec<String>,
    /// Calls a client may have open on one connection.
    pub max_concurrent_streams: u32,
    /// How often a silent client is asked whether it is there; 0 for never.
    pub grpc_keepalive_interval: Duration,
    /// How long its answer may take.
    pub grpc_keepalive_timeout: Duration,
    /// Cost of hashing a password.
    pub bcrypt_cost: u32,
    /// How often quiet watches get a progress mark.
    pub watch_progress_interval: Duration,
    /// How often members compare their states; 0 for never.
    pub corrupt_check_interval: Duration,
    /// Compare with the other members before serving.
    pub initial_corrupt_check: bool,
    /// Events a step of compaction looks at.
    pub compaction_batch_limit: usize,
    /// Pause between two such steps, so that clients come first.
    pub compaction_sleep_interval: Duration,
    /// Applying longer than this is logged.
    pub warning_apply_duration: Duration,
    /// A request that takes longer than this is logged.
    pub warning_request_duration: Duration,
    /// Measure how long calls take, too.
    pub extensive_metrics: bool,
    /// Refuse membership changes that would lose quorum.
    pub strict_reconfig_check: bool,
    /// Make a one-member cluster of what is on the disk.
    pub force_new_cluster: bool,
    /// Serve etcd's JSON paths.
    pub enable_grpc_gateway: bool,
    /// A learner started with this asks to become a voter once it has caught up. Ours, not etcd's.
    pub promote_when_caught_up: bool,
    /// What stands for sockets, in a simulation.
    pub network: Option<Arc<dyn Network>>,
}

impl Config {
    /// A member on its own, without any socket: for use inside a process, and in tests.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        let url = "http://localhost:2380".to_owned();
        Self {
            name: "default".into(),
            data_dir: data_dir.into(),
            wal_dir: None,
            listen_client_urls: Vec::new(),
            advertise_client_urls: Vec::new(),
            listen_peer_urls: Vec::new(),
            initial_advertise_peer_urls: vec![url.clone()],
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            initial_cluster: vec![("default".into(), url)],
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".into(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_backend_bytes: 0,
            auto_compaction: AutoCompaction::Off,
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            max_learners: 1,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            client_tls: TlsFiles::default(),
            peer_tls: TlsFiles::default(),
            auth_token: TokenSpec::Simple,
            auth_token_ttl: Duration::from_secs(300),
            cors: Vec::new(),
            host_whitelist: Vec::new(),
            max_concurrent_streams: 100_000,
            grpc_keepalive_interval: Duration::from_secs(60),
            grpc_keepalive_timeout: Duration::from_secs(20),
            bcrypt_cost: 10,
            watch_progress_interval: Duration::from_secs(600),
            corrupt_check_interval: Duration::ZERO,
            initial_corrupt_check: false,
            compaction_batch_limit: 1_000,
            compaction_sleep_interval: Duration::from_millis(10),
            warning_apply_duration: Duration::from_millis(300),
            warning_request_duration: Duration::from_millis(500),
            extensive_metrics: false,
            strict_reconfig_check: true,
            force_new_cluster: false,
            enable_grpc_gateway: true,
            promote_when_caught_up: false,
            network: None,
        }
    }

    /// How long a request may take before it fails with a timeout: a slow disk plus two elections, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// The shortest lease: one that could run out during an election would be of no use.
    pub fn lease_ttl_secs_min(&self) -> i64 {
        let millis = self.election_timeout.as_millis() * 3 / 2;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}
