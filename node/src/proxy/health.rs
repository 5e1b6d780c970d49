//! Whether the proxy keeps up, as the health endpoints report it. Pure: the caller passes the time.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

/// When changes arrived and when they were written.
#[derive(Clone, Debug)]
pub struct Health {
    /// How long a change may wait before the proxy counts as stuck.
    timeout: Duration,
    oldest_pending: Option<Timestamp>,
    last_updated: Option<Timestamp>,
    node_eligible: bool,
}

/// Answer of a health endpoint.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// Status 200 rather than 503.
    pub healthy: bool,
    /// JSON body.
    pub body: Value,
}

impl Health {
    /// Healthy until a change waits longer than `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, oldest_pending: None, last_updated: None, node_eligible: false }
    }

    /// A change arrived.
    pub fn queued(&mut self, now: Timestamp) {
        self.oldest_pending.get_or_insert(now);
    }

    /// All changes so far are in the kernel.
    pub fn updated(&mut self, now: Timestamp) {
        self.oldest_pending = None;
        self.last_updated = Some(now);
    }

    /// Whether the node exists and stays.
    pub fn set_node_eligible(&mut self, eligible: bool) {
        self.node_eligible = eligible;
    }

    /// True while no change waits too long.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        let waited = |since: Timestamp| now.duration_since(since).unsigned_abs();
        self.oldest_pending.is_none_or(|since| waited(since) < self.timeout)
    }

    /// `/livez`: the proxy alone.
    pub fn livez(&self, now: Timestamp) -> Report {
        self.report(now, self.is_alive(now), None)
    }

    /// `/healthz`: also the node, so that load balancers leave one that is going away.
    pub fn healthz(&self, now: Timestamp) -> Report {
        self.report(now, self.is_alive(now) && self.node_eligible, Some(self.node_eligible))
    }

    fn report(&self, now: Timestamp, healthy: bool, eligible: Option<bool>) -> Report {
        // A healthy proxy with nothing to do would show an old time; clients read "recent" as health.
        let last = if healthy { Some(now) } else { self.last_updated };
        let last = last.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string());
        let family =
            json!({"lastUpdated": self.last_updated.map(|t| t.to_string()), "healthy": self.is_alive(now)});
        let mut body = json!({
            "lastUpdated": last,
            "currentTime": now.to_string(),
            "healthy": self.is_alive(now),
            "status": {"IPv4": family, "IPv6": family},
        });
        if let Some(eligible) = eligible {
            body["nodeEligible"] = json!(eligible);
        }
        Report { healthy, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_and_a_leaving_node_only_on_healthz() {
        let at = |secs| Timestamp::from_second(secs).expect("a time");
        let mut health = Health::new(Duration::from_secs(60));
        health.set_node_eligible(true);
        let check = |health: &Health, now, alive, eligible| {
            assert_eq!(health.livez(at(now)).healthy, alive, "livez at {now}");
            assert_eq!(health.healthz(at(now)).healthy, alive && eligible, "healthz at {now}");
        };
        check(&health, 0, true, true);
        health.queued(at(10));
        health.queued(at(60));
        check(&health, 69, true, true);
        check(&health, 70, false, true);
        health.updated(at(71));
        check(&health, 500, true, true);
        health.set_node_eligible(false);
        check(&health, 500, true, false);
        assert_eq!(health.healthz(at(500)).body["nodeEligible"], json!(false));
    }
}
