//! What is counted of the traffic between members, by the other member's id.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    exponential_buckets,
};

use super::{DISK, counters, gauges, registered};

/// Traffic with every other member.
pub struct Network {
    sent: IntCounterVec,
    received: IntCounterVec,
    send_failures: IntCounterVec,
    receive_failures: IntCounterVec,
    round_trips: HistogramVec,
    snapshots_sent: IntCounterVec,
    snapshot_send_failures: IntCounterVec,
    snapshots_sending: IntGaugeVec,
    snapshot_send_times: HistogramVec,
    snapshots_received: IntCounterVec,
    snapshot_receive_failures: IntCounterVec,
    snapshots_receiving: IntGaugeVec,
    snapshot_receive_times: HistogramVec,
    known: IntGaugeVec,
    active: IntGaugeVec,
    peers: Mutex<HashMap<u64, Arc<PeerTraffic>>>,
}

/// Traffic with one other member.
pub struct PeerTraffic {
    /// Bytes sent to it.
    pub sent: IntCounter,
    /// Bytes received from it.
    pub received: IntCounter,
    /// Requests to it that failed.
    pub send_failures: IntCounter,
    /// Requests of it that could not be read.
    pub receive_failures: IntCounter,
    round_trips: Histogram,
    /// Snapshots sent to it.
    pub snapshots_sent: IntCounter,
    /// Snapshots that did not get through.
    pub snapshot_send_failures: IntCounter,
    /// Snapshots on their way to it.
    pub snapshots_sending: IntGauge,
    /// Seconds a snapshot to it takes.
    pub snapshot_send_times: Histogram,
    snapshots_received: IntCounter,
    snapshot_receive_failures: IntCounter,
    snapshots_receiving: IntGauge,
    snapshot_receive_times: Histogram,
}

/// A snapshot that is being received: counted among those until it goes, and as failed unless it was told to have arrived.
pub struct Receiving {
    from: Arc<PeerTraffic>,
    started: Instant,
    has_arrived: bool,
}

impl Receiving {
    /// It begins.
    pub fn begin(from: Arc<PeerTraffic>) -> Self {
        from.snapshots_receiving.inc();
        Self { from, started: Instant::now(), has_arrived: false }
    }

    /// All of it is here.
    pub fn arrived(&mut self) {
        self.has_arrived = true;
        let took = self.started.elapsed().as_secs_f64();
        self.from.snapshot_receive_times.observe(took);
        DISK.copy_save.observe(took);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.from.snapshots_receiving.dec();
        let outcome = if self.has_arrived {
            &self.from.snapshots_received
        } else {
            &self.from.snapshot_receive_failures
        };
        outcome.inc();
    }
}

impl PeerTraffic {
    /// A message and its answer took this long.
    pub fn round_trip(&self, took: Duration) {
        self.round_trips.observe(took.as_secs_f64());
    }
}

fn histograms(name: &str, help: &str, first: f64, count: usize, label: &str) -> HistogramVec {
    let buckets = exponential_buckets(first, 2.0, count).unwrap_or_default();
    registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[label]))
}

impl Network {
    pub(super) fn new() -> Self {
        let (to, from) = (&["To"][..], &["From"][..]);
        Self {
            sent: counters("etcd_network_peer_sent_bytes_total", "Bytes sent to peers.", to),
            received: counters("etcd_network_peer_received_bytes_total", "Bytes received from peers.", from),
            send_failures: counters(
                "etcd_network_peer_sent_failures_total",
                "Requests to peers that failed.",
                to,
            ),
            receive_failures: counters(
                "etcd_network_peer_received_failures_total",
                "Requests of peers that could not be read.",
                from,
            ),
            round_trips: histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Time from a heartbeat to its answer.",
                0.0001,
                16,
                "To",
            ),
            snapshots_sent: counters("etcd_network_snapshot_send_success", "Snapshots sent.", to),
            snapshot_send_failures: counters(
                "etcd_network_snapshot_send_failures",
                "Snapshots not sent.",
                to,
            ),
            snapshots_sending: gauges(
                "etcd_network_snapshot_send_inflights_total",
                "Snapshots on their way.",
                to,
            ),
            snapshot_send_times: histograms(
                "etcd_network_snapshot_send_total_duration_seconds",
                "Time sending a snapshot takes.",
                0.1,
                10,
                "To",
            ),
            snapshot_receive_failures: counters(
                "etcd_network_snapshot_receive_failures",
                "Snapshots that did not arrive.",
                from,
            ),
            snapshots_receiving: gauges(
                "etcd_network_snapshot_receive_inflights_total",
                "Snapshots on their way here.",
                from,
            ),
            snapshot_receive_times: histograms(
                "etcd_network_snapshot_receive_total_duration_seconds",
                "Time receiving a snapshot takes.",
                0.1,
                10,
                "From",
            ),
            snapshots_received: counters(
                "etcd_network_snapshot_receive_success",
                "Snapshots received.",
                from,
            ),
            known: gauges("etcd_network_known_peers", "1 for each other member.", &["Local", "Remote"]),
            active: gauges(
                "etcd_network_active_peers",
                "1 for each other member that this one has heard of lately.",
                &["Local", "Remote"],
            ),
            peers: Mutex::default(),
        }
    }

    /// The counters of a member, looked up once and then shared.
    pub fn peer(&self, id: u64) -> Arc<PeerTraffic> {
        let mut peers = self.peers.lock();
        let made = || {
            let name = format!("{id:x}");
            let label = &[name.as_str()];
            Arc::new(PeerTraffic {
                sent: self.sent.with_label_values(label),
                received: self.received.with_label_values(label),
                send_failures: self.send_failures.with_label_values(label),
                receive_failures: self.receive_failures.with_label_values(label),
                round_trips: self.round_trips.with_label_values(label),
                snapshots_sent: self.snapshots_sent.with_label_values(label),
                snapshot_send_failures: self.snapshot_send_failures.with_label_values(label),
                snapshots_sending: self.snapshots_sending.with_label_values(label),
                snapshot_send_times: self.snapshot_send_times.with_label_values(label),
                snapshots_received: self.snapshots_received.with_label_values(label),
                snapshot_receive_failures: self.snapshot_receive_failures.with_label_values(label),
                snapshots_receiving: self.snapshots_receiving.with_label_values(label),
                snapshot_receive_times: self.snapshot_receive_times.with_label_values(label),
            })
        };
        peers.entry(id).or_insert_with(made).clone()
    }

    /// These other members there are, and have been heard of lately or not, where that is known.
    pub fn set_peers(&self, own: u64, others: impl Iterator<Item = (u64, Option<bool>)>) {
        self.known.reset();
        self.active.reset();
        let own = format!("{own:x}");
        for (id, is_active) in others {
            let other = format!("{id:x}");
            let labels = &[own.as_str(), other.as_str()];
            self.known.with_label_values(labels).set(1);
            if let Some(is_active) = is_active {
                self.active.with_label_values(labels).set(i64::from(is_active));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NETWORK;

    #[test]
    fn a_snapshot_that_breaks_off_counts_as_failed_and_one_that_arrives_does_not() {
        let from = NETWORK.peer(0xfeed);
        let counts = || {
            let (there, failed) = (from.snapshots_received.get(), from.snapshot_receive_failures.get());
            (from.snapshots_receiving.get(), there, failed, from.snapshot_receive_times.get_sample_count())
        };
        let broken = Receiving::begin(from.clone());
        assert_eq!(counts(), (1, 0, 0, 0));
        drop(broken);
        assert_eq!(counts(), (0, 0, 1, 0));
        let mut whole = Receiving::begin(from.clone());
        whole.arrived();
        drop(whole);
        assert_eq!(counts(), (0, 1, 1, 1));
    }
}
