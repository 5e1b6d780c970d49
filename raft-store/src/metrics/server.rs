//! What is counted of the member and its cluster.

use std::sync::LazyLock;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{counter, counters, float, gauge, gauges};

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
    /// Linearizable read rounds that failed.
    pub failed_reads: IntCounter,
    /// Heartbeats that got no answer.
    pub failed_heartbeats: IntCounter,
    /// Snapshots being taken over from the leader.
    pub applying_snapshots: IntGauge,
    /// Learners made voters.
    pub promoted: IntCounter,
    /// Learners that could not be made voters yet.
    pub not_promoted: IntCounterVec,
    /// Health checks that found the member well.
    pub healthy: IntCounter,
    /// Health checks that did not.
    pub unhealthy: IntCounter,
    checks: IntGaugeVec,
    checks_done: IntCounterVec,
    /// Raised alarms.
    pub alarms: IntGaugeVec,
    version: IntGaugeVec,
    cluster_version: IntGaugeVec,
    id: IntGaugeVec,
}

impl Server {
    pub(super) fn new() -> Self {
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
            failed_reads: counter("etcd_server_read_indexes_failed_total", "Read rounds that failed."),
            failed_heartbeats: counter(
                "etcd_server_heartbeat_send_failures_total",
                "Heartbeats without answer.",
            ),
            applying_snapshots: gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "1 while a snapshot is taken over.",
            ),
            promoted: counter("etcd_server_learner_promote_successes", "Learners made voters."),
            not_promoted: counters(
                "etcd_server_learner_promote_failures",
                "Learners not made voters.",
                &["Reason"],
            ),
            healthy: counter("etcd_server_health_success", "Health checks that found the member well."),
            unhealthy: counter("etcd_server_health_failures", "Health checks that did not."),
            checks: gauges(
                "etcd_server_healthcheck",
                "1 where a check last found the member well.",
                &["type", "name"],
            ),
            checks_done: counters(
                "etcd_server_healthchecks_total",
                "Checks done.",
                &["type", "name", "status"],
            ),
            alarms: gauges("etcd_debugging_server_alarms", "Raised alarms.", &["server_id", "alarm_type"]),
            version: gauges("etcd_server_version", "The version of this server.", &["server_version"]),
            cluster_version: gauges(
                "etcd_cluster_version",
                "The version of the cluster.",
                &["cluster_version"],
            ),
            id: gauges("etcd_server_id", "The id of this member.", &["server_id"]),
        }
    }

    /// Names the member.
    pub fn identify(&self, version: &str, cluster_version: &str, member_id: u64) {
        // The time of start is what it is when this is first looked at.
        LazyLock::force(&super::PROCESS);
        self.version.with_label_values(&[version]).set(1);
        // Without the patch number, as etcd says it.
        let minor = cluster_version.rsplit_once('.').map_or(cluster_version, |(minor, _)| minor);
        self.cluster_version.with_label_values(&[minor]).set(1);
        self.id.with_label_values(&[format!("{member_id:x}").as_str()]).set(1);
    }

    /// A named check has been done.
    pub fn checked(&self, kind: &str, name: &str, is_well: bool) {
        let status = if is_well { "success" } else { "error" };
        self.checks.with_label_values(&[kind, name]).set(i64::from(is_well));
        self.checks_done.with_label_values(&[kind, name, status]).inc();
    }

    /// These alarms are raised now, and no others.
    pub fn set_alarms(&self, alarms: impl Iterator<Item = (u64, &'static str)>) {
        self.alarms.reset();
        for (member, kind) in alarms {
            self.alarms.with_label_values(&[format!("{member:x}").as_str(), kind]).set(1);
        }
    }
}
