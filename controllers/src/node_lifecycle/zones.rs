//! How fast nodes may get taints that evict, by zone: quickly while most of the zone is well, slowly or not at all
//! when so much of it is down that the fault is likelier in between than in the nodes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use rustc_hash::FxHashMap;

use crate::meta::label;
use crate::nodes;
use crate::options::NodeOptions;

/// Fewer broken nodes than this never make a zone unhealthy (upstream's).
const BROKEN_MIN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Normal,
    Partial,
    Down,
}

#[derive(Debug, Clone, Copy)]
struct Zone {
    size: usize,
    health: Health,
}

/// The zones and when each may evict next.
#[derive(Default)]
pub struct Zones {
    zones: FxHashMap<String, Zone>,
    next: FxHashMap<String, Duration>,
}

fn zone_of(node: &Node) -> String {
    let region = label(node, "topology.kubernetes.io/region").unwrap_or("");
    let zone = label(node, "topology.kubernetes.io/zone").unwrap_or("");
    format!("{region}:{zone}")
}

impl Zones {
    /// Looks at all nodes.
    pub fn observe(&mut self, all: &[Arc<Node>], options: &NodeOptions) {
        let mut counts: FxHashMap<String, (usize, usize)> = FxHashMap::default();
        for node in all {
            let (size, broken) = counts.entry(zone_of(node)).or_default();
            *size += 1;
            *broken += usize::from(!nodes::is_ready(node));
        }
        let zone = |(size, broken): (usize, usize)| {
            let health = if broken == size && size > 0 {
                Health::Down
            } else if broken >= BROKEN_MIN && broken as f64 / size as f64 >= options.unhealthy_zone {
                Health::Partial
            } else {
                Health::Normal
            };
            Zone { size, health }
        };
        self.zones = counts.into_iter().map(|(name, count)| (name, zone(count))).collect();
    }

    /// Asks to give a node a taint that evicts, or to leave it the one it has.
    ///
    /// # Errors
    /// When it must wait: for how long, if that is known.
    pub fn admit(
        &mut self,
        node: &Node,
        has_one: bool,
        elapsed: Duration,
        options: &NodeOptions,
    ) -> Result<(), Option<Duration>> {
        // When everything looks down the fault is here. Nodes fall silent one after the other: those that came first lose
        // the taint when all have, as upstream's.
        if self.zones.values().all(|zone| zone.health == Health::Down) {
            return Err(None);
        }
        if has_one {
            return Ok(());
        }
        let name = zone_of(node);
        let rate = match self.zones.get(&name) {
            Some(Zone { health: Health::Partial, size }) if *size > options.large_cluster => {
                options.secondary_eviction_rate
            }
            Some(Zone { health: Health::Partial, .. }) => 0.0,
            _ => options.eviction_rate,
        };
        if rate <= 0.0 {
            return Err(None);
        }
        let next = self.next.get(&name).copied().unwrap_or(Duration::ZERO);
        if elapsed < next {
            return Err(Some(next - elapsed));
        }
        self.next.insert(name, elapsed + Duration::from_secs_f64(1.0 / rate));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use serde_json::json;

    fn nodes(ready: usize, broken: usize) -> Vec<Arc<Node>> {
        let node = |number: usize, status: &str| {
            let conditions = json!([{"type": "Ready", "status": status}]);
            let json =
                json!({"metadata": {"name": format!("n{number}")}, "status": {"conditions": conditions}});
            Arc::new(serde_json::from_value::<Node>(json).expect("a node"))
        };
        (0..ready).map(|n| node(n, "True")).chain((0..broken).map(|n| node(ready + n, "Unknown"))).collect()
    }

    #[test]
    fn rates() {
        let options = Options::default().nodes;
        let cases = [
            (9, 1, Ok(()), Err(Some(Duration::from_secs(10)))),
            (1, 1, Ok(()), Err(Some(Duration::from_secs(10)))),
            (0, 2, Err(None), Err(None)),
            (4, 6, Err(None), Err(None)),
            (40, 60, Ok(()), Err(Some(Duration::from_secs(100)))),
        ];
        for (ready, broken, first, second) in cases {
            let all = nodes(ready, broken);
            let mut zones = Zones::default();
            zones.observe(&all, &options);
            let last = all.last().expect("a node");
            assert_eq!(
                zones.admit(last, false, Duration::ZERO, &options),
                first,
                "{ready} ready, {broken} broken"
            );
            assert_eq!(
                zones.admit(last, false, Duration::ZERO, &options),
                second,
                "{ready} ready, {broken} broken"
            );
        }
    }
}
