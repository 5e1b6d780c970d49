//! Tells nodes how long they may keep secrets and config maps before asking again: the larger the cluster, the longer.

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::meta::annotation;
use crate::runtime::store::AnyStore;
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// Cluster sizes from and to which a number of seconds stays; they overlap, so that a size at a border does not flap.
const STEPS: [(usize, usize, u32); 6] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, 10_000, 300),
    (9000, usize::MAX, 600),
];

struct Ttl {
    nodes: Store<Node>,
}

/// Builds the loop; its keys are nodes.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(Ttl { nodes: wiring.on_self::<Node>() })
}

fn ttl_secs(size: usize, now: Option<u32>) -> u32 {
    let fits = |step: &&(usize, usize, u32)| (step.0..=step.1).contains(&size);
    let kept = STEPS.iter().filter(fits).find(|step| Some(step.2) == now);
    kept.or_else(|| STEPS.iter().find(fits)).map_or(0, |step| step.2)
}

impl Controller for Ttl {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(node) = self.nodes.get(key) else { return Ok(plan) };
        let have = annotation(node.as_ref(), ANNOTATION).and_then(|text| text.parse().ok());
        let wanted = ttl_secs(AnyStore::count(&self.nodes), have);
        if have != Some(wanted) {
            let body = json!({"metadata": {"annotations": {ANNOTATION: wanted.to_string()}}});
            plan.act(Action::merge(node.as_ref(), body).tolerating(&[404]));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::crash::check_crashes;
    use crate::testing::world::Scenario;

    #[test]
    fn steps() {
        let cases = [
            (1, None, 0),
            (95, Some(0), 0),
            (95, Some(15), 15),
            (101, Some(0), 15),
            (50, Some(15), 0),
            (20_000, None, 600),
        ];
        for (size, now, expected) in cases {
            assert_eq!(super::ttl_secs(size, now), expected, "{size} nodes, {now:?} now");
        }
    }

    #[test]
    fn crashes() {
        let node = |name: &str| json!({"kind": "Node", "metadata": {"name": name}});
        check_crashes(&Scenario::new(&[super::build], &[node("a"), node("b")]));
    }
}
