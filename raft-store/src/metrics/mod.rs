//! What this process counts, under etcd's names, so that etcd's dashboards and alerts work.
//!
//! One registry a process. Gauges that can be read off a member are set once a second and when metrics are asked for.
//! What only etcd's own machinery has (bbolt's rebalancing, Go's collector) is left out, never made up.

mod grpc;
mod network;
mod process;
mod server;

use std::{sync::LazyLock, time::Duration};

pub use grpc::{Grpc, Method};
pub use network::{Network, PeerTraffic, Receiving};
use process::Process;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, exponential_buckets,
};
use proto::mvccpb::event::EventType;

use crate::mvcc::pending::Change;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Disk times.
pub static DISK: LazyLock<Disk> = LazyLock::new(Disk::new);
/// The key-value store.
pub static STORE: LazyLock<Store> = LazyLock::new(Store::new);
/// The member and its cluster.
pub static SERVER: LazyLock<server::Server> = LazyLock::new(server::Server::new);
/// gRPC calls.
pub static GRPC: LazyLock<Grpc> = LazyLock::new(Grpc::new);
/// What goes between members.
pub static NETWORK: LazyLock<Network> = LazyLock::new(Network::new);
/// The process.
static PROCESS: LazyLock<Process> = LazyLock::new(Process::new);

// Names below are constants checked by the test, so making or registering a metric cannot fail at run time.
fn registered<M: prometheus::core::Collector + Clone + 'static>(metric: Result<M, prometheus::Error>) -> M {
    let metric = metric.expect("metric names are valid");
    REGISTRY.register(Box::new(metric.clone())).expect("metric names are unique");
    metric
}

fn counter(name: &str, help: &str) -> IntCounter {
    registered(IntCounter::new(name, help))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    registered(IntGauge::new(name, help))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn float(name: &str, help: &str) -> Gauge {
    registered(Gauge::new(name, help))
}

fn histogram(name: &str, help: &str, first: f64, count: usize) -> Histogram {
    let buckets = exponential_buckets(first, 2.0, count).unwrap_or_default();
    registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

/// Times of syncing the log and committing the state.
pub struct Disk {
    sync: Histogram,
    write: Histogram,
    written: Gauge,
    commit: Histogram,
    /// Copies of the state made for backups.
    pub snapshot: Histogram,
    /// Receiving a leader's copy of the state.
    pub copy_save: Histogram,
    /// Syncing a file of it.
    pub copy_sync: Histogram,
    /// Defragmentations, which answer at once.
    pub defragment: Histogram,
    _defragmenting: IntGauge,
}

impl Disk {
    fn new() -> Self {
        Self {
            sync: histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Latency of syncing the Raft log.",
                0.001,
                14,
            ),
            commit: histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "Latency of applying and committing a group of entries.",
                0.001,
                14,
            ),
            write: histogram(
                "etcd_disk_wal_write_duration_seconds",
                "Latency of writing to the Raft log, with the sync.",
                0.001,
                14,
            ),
            written: float("etcd_disk_wal_write_bytes_total", "Bytes of entries written to the Raft log."),
            snapshot: histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "Time a backup of the state takes.",
                0.01,
                17,
            ),
            copy_save: histogram(
                "etcd_snap_db_save_total_duration_seconds",
                "Time receiving and saving the leader's copy of the state takes.",
                0.1,
                10,
            ),
            copy_sync: histogram(
                "etcd_snap_db_fsync_duration_seconds",
                "Latency of syncing a file of the leader's copy of the state.",
                0.001,
                14,
            ),
            defragment: histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "Time until a defragmentation is answered.",
                0.1,
                13,
            ),
            _defragmenting: gauge("etcd_disk_defrag_inflight", "Always 0: defragmenting stops nothing here."),
        }
    }

    /// One write of the log, with its sync.
    pub fn observe_sync(&self, took: Duration, bytes: usize) {
        self.sync.observe(took.as_secs_f64());
        self.write.observe(took.as_secs_f64());
        self.written.add(bytes as f64);
    }

    /// One commit of applied entries.
    pub fn observe_commit(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }
}

/// Keys, revisions, watchers.
pub struct Store {
    revision: IntGauge,
    compact_revision: IntGauge,
    puts: IntCounter,
    deletes: IntCounter,
    ranges: IntCounter,
    txns: IntCounter,
    events: IntCounter,
    /// Open watch streams.
    pub watch_streams: IntGauge,
    /// Open watches.
    pub watchers: IntGauge,
    /// Watches that are behind.
    pub slow_watchers: IntGauge,
    /// Bytes allocated on disk.
    pub size: IntGauge,
    /// Bytes of live rows.
    pub size_in_use: IntGauge,
    /// Leases granted.
    pub lease_granted: IntCounter,
    /// Leases revoked by clients.
    pub lease_revoked: IntCounter,
    /// Leases renewed.
    pub lease_renewed: IntCounter,
    /// Leases whose time ran out.
    pub lease_expired: IntCounter,
    /// Times leases were granted for.
    pub lease_ttl: Histogram,
    /// Keys there are.
    pub keys: IntGauge,
    /// Events that wait for watchers to take them.
    pub pending_events: IntGauge,
    /// Users' revision.
    pub auth_revision: IntGauge,
    /// Time a hash of the state takes.
    pub hash: Histogram,
    /// The same, for the older call.
    pub hash_all: Histogram,
    range_times: [Histogram; 2],
    put_bytes: IntGauge,
    compacted_keys: IntCounter,
    compaction: Histogram,
    compaction_pause: Histogram,
    compaction_last: IntGauge,
}

impl Store {
    fn new() -> Self {
        Self {
            revision: gauge("etcd_debugging_mvcc_current_revision", "The newest revision."),
            compact_revision: gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision."),
            puts: counter("etcd_mvcc_put_total", "Puts applied."),
            deletes: counter("etcd_mvcc_delete_total", "Deletes applied."),
            ranges: counter("etcd_mvcc_range_total", "Ranges answered."),
            txns: counter("etcd_mvcc_txn_total", "Transactions applied."),
            events: counter("etcd_debugging_mvcc_events_total", "Events handed to watchers' hub."),
            watch_streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams."),
            watchers: gauge("etcd_debugging_mvcc_watcher_total", "Open watches."),
            slow_watchers: gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are behind."),
            size: gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes the state takes on disk and in memory tables.",
            ),
            size_in_use: gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of live rows."),
            lease_ttl: histogram("etcd_debugging_lease_ttl_total", "Times leases were granted for.", 1.0, 24),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Keys there are."),
            pending_events: gauge(
                "etcd_debugging_mvcc_pending_events_total",
                "Events that wait for watchers.",
            ),
            auth_revision: gauge("etcd_debugging_auth_revision", "The revision of users and roles."),
            hash: histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "Time a hash of the state takes.",
                0.01,
                15,
            ),
            hash_all: histogram(
                "etcd_mvcc_hash_duration_seconds",
                "Time a hash of the whole state takes.",
                0.01,
                15,
            ),
            range_times: range_times(),
            put_bytes: gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put."),
            compacted_keys: counter(
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Events looked at by compaction.",
            ),
            compaction: histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Time a compaction took from beginning to end.",
                100.0,
                14,
            ),
            compaction_pause: histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "Time of one step of a compaction, which stops nobody.",
                1.0,
                13,
            ),
            compaction_last: gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "When the last compaction ended, since 1970.",
            ),
            lease_granted: counter("etcd_debugging_lease_granted_total", "Leases granted."),
            lease_revoked: counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            lease_renewed: counter("etcd_debugging_lease_renewed_total", "Leases renewed."),
            lease_expired: counter("etcd_debugging_server_lease_expired_total", "Leases whose time ran out."),
        }
    }

    /// Changes that were committed.
    pub fn applied(&self, revision: i64, compact_revision: i64, changes: &[Change]) {
        self.revision.set(revision);
        self.compact_revision.set(compact_revision);
        let deletes = changes.iter().filter(|change| change.event.r#type == EventType::Delete as i32).count();
        self.deletes.inc_by(deletes as u64);
        self.puts.inc_by((changes.len() - deletes) as u64);
        let put = |change: &Change| {
            let kv = change.event.kv.as_ref().filter(|_| change.event.r#type == EventType::Put as i32);
            kv.map_or(0, |kv| kv.key.len() + kv.value.len())
        };
        self.put_bytes.add(changes.iter().map(put).sum::<usize>() as i64);
        self.events.inc_by(changes.len() as u64);
    }

    /// One range answered.
    pub fn range(&self) {
        self.ranges.inc();
    }

    /// Reading the rows of a range took so long, and succeeded or not.
    pub fn range_took(&self, took: Duration, succeeded: bool) {
        self.range_times[usize::from(succeeded)].observe(took.as_secs_f64());
    }

    /// One step of a compaction.
    pub fn compaction_step(&self, took: Duration, events: usize) {
        self.compaction_pause.observe(took.as_secs_f64() * 1000.0);
        self.compacted_keys.inc_by(events as u64);
    }

    /// A compaction is over.
    pub fn compaction_ended(&self, took: Duration) {
        self.compaction.observe(took.as_secs_f64() * 1000.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.compaction_last.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// One transaction answered.
    pub fn txn(&self) {
        self.txns.inc();
    }
}

/// Of ranges that failed, and of those that did not.
fn range_times() -> [Histogram; 2] {
    let buckets = exponential_buckets(0.0001, 2.0, 20).unwrap_or_default();
    let help = "Time reading the rows of a range takes.";
    let options = HistogramOpts::new("etcd_server_range_duration_seconds", help).buckets(buckets);
    let times = registered(HistogramVec::new(options, &["success"]));
    ["false", "true"].map(|succeeded| times.with_label_values(&[succeeded]))
}

/// Everything in Prometheus' text format.
pub fn render() -> String {
    PROCESS.look();
    LazyLock::force(&DISK);
    LazyLock::force(&STORE);
    LazyLock::force(&SERVER);
    LazyLock::force(&GRPC);
    LazyLock::force(&NETWORK);
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&REGISTRY.gather(), &mut text) {
        tracing::warn!(%error, "cannot render metrics");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    /// What etcd's own dashboard and alert rules (contrib/mixin) ask for.
    const OF_DASHBOARDS: [&str; 26] = [
        "etcd_cluster_version",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_network_peer_received_bytes_total",
        "etcd_network_peer_round_trip_time_seconds_bucket",
        "etcd_network_peer_sent_bytes_total",
        "etcd_network_peer_sent_failures_total",
        "etcd_server_has_leader",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_pending",
        "etcd_server_quota_backend_bytes",
        "etcd_debugging_server_lease_expired_total",
        "grpc_server_handled_total",
        "grpc_server_handling_seconds_bucket",
        "grpc_server_msg_received_total",
        "grpc_server_started_total",
        "os_fd_used",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ];

    #[test]
    fn everything_dashboards_ask_for_is_there() {
        let peer = super::NETWORK.peer(0xab);
        peer.sent.inc_by(3);
        peer.round_trip(std::time::Duration::from_millis(1));
        super::SERVER.identify("3.7.0", "3.7.0", 1);
        let method = super::GRPC.method("/etcdserverpb.KV/Range");
        method.started.inc();
        super::GRPC.handled(&method, tonic::Code::Ok);
        super::GRPC.took(&method, std::time::Duration::from_millis(1));
        let text = super::render();
        let missing: Vec<_> =
            OF_DASHBOARDS.into_iter().filter(|name| !text.contains(&format!("\n{name}"))).collect();
        assert!(missing.is_empty(), "{missing:?} are missing");
        assert!(text.contains(r#"etcd_network_peer_sent_bytes_total{To="ab"} 3"#), "{text}");
        assert!(text.contains("\n# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }
}
