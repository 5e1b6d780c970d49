//! When each node was last heard of: its lease was renewed or its status posted. A pure memory; losing it means that
//! every node is heard of anew, which delays a verdict and never hastens one.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use rustc_hash::FxHashMap;

use crate::meta::{name, uid};

#[derive(PartialEq, Eq)]
struct Sign {
    uid: String,
    renewed: Option<Timestamp>,
    heartbeats: Vec<Option<Timestamp>>,
}

/// The memory.
#[derive(Default)]
pub struct Signs {
    last: FxHashMap<String, (Sign, Duration)>,
}

impl Signs {
    /// How long a node has been silent, as of `elapsed`.
    pub fn silent_for(&mut self, node: &Node, lease: Option<&Lease>, elapsed: Duration) -> Duration {
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|at| at.0));
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        // What this loop writes itself (status Unknown) carries no new heartbeat and so is no sign of life.
        let heartbeats =
            conditions.into_iter().flatten().map(|c| c.last_heartbeat_time.as_ref().map(|at| at.0));
        let sign = Sign { uid: uid(node).to_string(), renewed, heartbeats: heartbeats.collect() };
        match self.last.get(name(node)) {
            Some((last, at))
                if last.uid == sign.uid && last.renewed == sign.renewed && !is_newer(&sign, last) =>
            {
                elapsed.saturating_sub(*at)
            }
            _ => {
                self.last.insert(name(node).to_string(), (sign, elapsed));
                Duration::ZERO
            }
        }
    }

    /// Forgets a node that is gone.
    pub fn forget(&mut self, node: &str) {
        self.last.remove(node);
    }
}

fn is_newer(new: &Sign, old: &Sign) -> bool {
    new.heartbeats.iter().max() > old.heartbeats.iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(heartbeat: &str) -> Node {
        let conditions = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}]);
        serde_json::from_value(
            json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": conditions}}),
        )
        .expect("a node")
    }

    fn lease(renewed: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": renewed}})).expect("a lease")
    }

    #[test]
    fn lease_and_status_are_signs() {
        let mut signs = Signs::default();
        let at = Duration::from_secs;
        let (old, new) = ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:10.000000Z");
        assert_eq!(signs.silent_for(&node(old), Some(&lease(old)), at(100)), at(0));
        assert_eq!(signs.silent_for(&node(old), Some(&lease(old)), at(130)), at(30));
        assert_eq!(signs.silent_for(&node(old), Some(&lease(new)), at(140)), at(0), "the lease was renewed");
        assert_eq!(signs.silent_for(&node(new), Some(&lease(new)), at(150)), at(0), "the status was posted");
        assert_eq!(signs.silent_for(&node(new), Some(&lease(new)), at(151)), at(1));
    }
}
