//! What this process counts, under etcd's names, so that etcd's dashboards and alerts work.
//!
//! One registry a process. Gauges that can be read off a member are set when metrics are asked for.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::RwLock;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};
use proto::mvccpb::event::EventType;

use crate::mvcc::pending::Change;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Disk times.
pub static DISK: LazyLock<Disk> = LazyLock::new(Disk::new);
/// The key-value store.
pub static STORE: LazyLock<Store> = LazyLock::new(Store::new);
/// The member and its cluster.
pub static SERVER: LazyLock<Server> = LazyLock::new(Server::new);
/// gRPC calls.
pub static GRPC: LazyLock<Grpc> = LazyLock::new(Grpc::new);

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

fn histogram(name: &str, help: &str, first: f64, count: usize) -> Histogram {
    let buckets = exponential_buckets(first, 2.0, count).unwrap_or_default();
    registered(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

/// Times of syncing the log and committing the state.
pub struct Disk {
    sync: Histogram,
    commit: Histogram,
}

impl Disk {
    fn new() -> Self {
        Self {
            sync: histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "Latency of syncing the Raft log.",
                0.0005,
                14,
            ),
            commit: histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "Latency of applying and committing a group of entries.",
                0.0005,
                14,
            ),
        }
    }

    /// One sync of the log.
    pub fn observe_sync(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
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
            lease_granted: counter("etcd_debugging_lease_granted_total", "Leases granted."),
            lease_revoked: counter("etcd_debugging_lease_revoked_total", "Leases revoked."),
            lease_renewed: counter("etcd_debugging_lease_renewed_total", "Leases renewed."),
            lease_expired: counter("etcd_server_lease_expired_total", "Leases whose time ran out."),
        }
    }

    /// Changes that were committed.
    pub fn applied(&self, revision: i64, compact_revision: i64, changes: &[Change]) {
        self.revision.set(revision);
        self.compact_revision.set(compact_revision);
        let deletes = changes.iter().filter(|change| change.event.r#type == EventType::Delete as i32).count();
        self.deletes.inc_by(deletes as u64);
        self.puts.inc_by((changes.len() - deletes) as u64);
        self.events.inc_by(changes.len() as u64);
    }

    /// One range answered.
    pub fn range(&self) {
        self.ranges.inc();
    }

    /// One transaction answered.
    pub fn txn(&self) {
        self.txns.inc();
    }
}

fn started_now(gauge: Gauge) -> Gauge {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    gauge.set(now.map_or(0.0, |now| now.as_secs_f64()));
    gauge
}

/// Leadership, proposals, quota.
pub struct Server {
    /// 1 while a leader is known.
    pub has_leader: IntGauge,
    /// 1 while this member leads.
    pub is_leader: IntGauge,
    /// 1 while this member is a learner.
    pub is_learner: IntGauge,
    /// Leader changes seen.
    pub leader_changes: IntCounter,
    /// The committed log index.
    pub committed: Gauge,
    /// The applied log index.
    pub applied: Gauge,
    /// Proposals waiting for their answer.
    pub pending: IntGauge,
    /// Proposals that failed.
    pub failed: IntCounter,
    /// Requests that took long.
    pub slow_applies: IntCounter,
    /// Linearizable read rounds that took long.
    pub slow_reads: IntCounter,
    /// The quota in bytes.
    pub quota: Gauge,
    /// Keeps the start time registered.
    _start_time: Gauge,
    /// Resident memory of this process.
    pub resident: IntGauge,
    version: IntGaugeVec,
    id: IntGaugeVec,
}

impl Server {
    fn new() -> Self {
        let float = |name: &str, help: &str| registered(Gauge::new(name, help));
        let labelled = |name: &str, help: &str, label: &str| {
            registered(IntGaugeVec::new(Opts::new(name, help), &[label]))
        };
        Self {
            has_leader: gauge("etcd_server_has_leader", "1 while a leader is known."),
            is_leader: gauge("etcd_server_is_leader", "1 while this member leads."),
            is_learner: gauge("etcd_server_is_learner", "1 while this member is a learner."),
            leader_changes: counter("etcd_server_leader_changes_seen_total", "Leader changes seen."),
            committed: float("etcd_server_proposals_committed_total", "The committed log index."),
            applied: float("etcd_server_proposals_applied_total", "The applied log index."),
            pending: gauge("etcd_server_proposals_pending", "Proposals waiting for their answer."),
            failed: counter("etcd_server_proposals_failed_total", "Proposals that failed."),
            slow_applies: counter(
                "etcd_server_slow_apply_total",
                "Groups of entries that took long to apply.",
            ),
            slow_reads: counter("etcd_server_slow_read_indexes_total", "Read rounds that took long."),
            quota: float("etcd_server_quota_backend_bytes", "The quota in bytes."),
            _start_time: started_now(float(
                "process_start_time_seconds",
                "Start time of the process since 1970, in seconds.",
            )),
            resident: gauge("process_resident_memory_bytes", "Resident memory in bytes."),
            version: labelled("etcd_server_version", "The version of this server.", "server_version"),
            id: labelled("etcd_server_id", "The id of this member.", "server_id"),
        }
    }

    /// Names the member.
    pub fn identify(&self, version: &str, member_id: u64) {
        self.version.with_label_values(&[version]).set(1);
        self.id.with_label_values(&[format!("{member_id:x}").as_str()]).set(1);
    }
}

/// Calls by service and method.
pub struct Grpc {
    started: IntCounterVec,
    handled: IntCounterVec,
    methods: RwLock<HashMap<String, Arc<Method>>>,
}

impl Grpc {
    fn new() -> Self {
        let labels = ["grpc_service", "grpc_method", "grpc_type"];
        let handled = ["grpc_service", "grpc_method", "grpc_type", "grpc_code"];
        Self {
            started: registered(IntCounterVec::new(
                Opts::new("grpc_server_started_total", "Calls started on the server."),
                &labels,
            )),
            handled: registered(IntCounterVec::new(
                Opts::new("grpc_server_handled_total", "Calls completed on the server."),
                &handled,
            )),
            methods: RwLock::default(),
        }
    }

    /// The counters of a method, looked up once and then shared.
    pub fn method(&self, path: &str) -> Arc<Method> {
        if let Some(known) = self.methods.read().get(path) {
            return known.clone();
        }
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (service, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = match name {
            "Watch" | "LeaseKeepAlive" => "bidi_stream",
            "Snapshot" | "Observe" | "RangeStream" => "server_stream",
            _ => "unary",
        };
        let method = Arc::new(Method {
            service: service.to_owned(),
            name: name.to_owned(),
            is_unary: kind == "unary",
            started: self.started.with_label_values(&[service, name, kind]),
            succeeded: self.handled.with_label_values(&[service, name, kind, "OK"]),
            kind,
        });
        // A client may ask for any path; only so many are remembered.
        let mut methods = self.methods.write();
        if methods.len() < METHODS_MAX {
            methods.insert(path.to_owned(), method.clone());
        }
        method
    }

    /// A call ended.
    pub fn handled(&self, method: &Method, code: tonic::Code) {
        match code {
            tonic::Code::Ok => method.succeeded.inc(),
            code => {
                let labels = [&method.service, &method.name, method.kind, &format!("{code:?}")];
                self.handled.with_label_values(&labels).inc();
            }
        }
    }
}

/// Methods whose counters are remembered; there are fewer than a hundred real ones.
const METHODS_MAX: usize = 256;

/// One gRPC method and its counters.
pub struct Method {
    /// The service's full name.
    pub service: String,
    /// The method's name.
    pub name: String,
    /// Neither side streams.
    pub is_unary: bool,
    /// Calls begun.
    pub started: IntCounter,
    succeeded: IntCounter,
    kind: &'static str,
}

/// Resident bytes of this process, from the kernel.
fn resident_bytes() -> Option<i64> {
    const PAGE_BYTES: i64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<i64>().ok()? * PAGE_BYTES)
}

/// Everything in Prometheus' text format.
pub fn render() -> String {
    SERVER.resident.set(resident_bytes().unwrap_or(0));
    LazyLock::force(&DISK);
    LazyLock::force(&STORE);
    LazyLock::force(&SERVER);
    LazyLock::force(&GRPC);
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&REGISTRY.gather(), &mut text) {
        tracing::warn!(%error, "cannot render metrics");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_can_be_made_and_is_rendered() {
        let text = super::render();
        for name in
            ["etcd_server_has_leader", "etcd_disk_wal_fsync_duration_seconds_bucket", "etcd_mvcc_put_total"]
        {
            assert!(text.contains(name), "{name} is missing");
        }
    }
}
