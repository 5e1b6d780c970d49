//! Says of each node whether its pods can be reached from the others. There is no cloud whose routes would have to be
//! made: every node's agent routes the other nodes' pod ranges by their addresses. So a node that has both is reachable,
//! and one that lacks either is not; its condition becomes a taint by the node life cycle, which keeps pods away.

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::runtime::{Action, Context, Controller, Key, Note, Plan, ReconcileError, Store, Wiring};

const CONDITION: &str = "NetworkUnavailable";

struct Routes {
    nodes: Store<Node>,
}

/// Builds the loop; its keys are nodes.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(Routes { nodes: wiring.on_self::<Node>() })
}

/// Why the others have no way to the node's pods, if they have none.
fn obstacle(node: &Node) -> Option<&'static str> {
    let spec = node.spec.as_ref();
    let has_range = spec.is_some_and(|spec| {
        spec.pod_cidrs.as_ref().is_some_and(|ranges| !ranges.is_empty()) || spec.pod_cidr.is_some()
    });
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let has_address = addresses.into_iter().flatten().any(|address| address.type_ == "InternalIP");
    match (has_range, has_address) {
        (true, true) => None,
        (false, _) => Some("the node has no range of pod addresses"),
        (true, false) => Some("the node has no InternalIP address"),
    }
}

impl Controller for Routes {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(node) = self.nodes.get(key) else { return Ok(plan) };
        let obstacle = obstacle(&node);
        let (status, reason) = match obstacle {
            None => ("False", "RouteCreated"),
            Some(_) => ("True", "NoRouteCreated"),
        };
        let status_now = node.status.as_ref();
        let mut conditions = status_now.and_then(|status| status.conditions.clone()).unwrap_or_default();
        let have = conditions.iter().find(|condition| condition.type_ == CONDITION);
        if have.is_some_and(|have| have.status == status && have.reason.as_deref() == Some(reason)) {
            return Ok(plan);
        }
        conditions.retain(|condition| condition.type_ != CONDITION);
        let message = match obstacle {
            None => "RouteController created a route".to_owned(),
            Some(why) => format!("RouteController failed to create a route: {why}"),
        };
        conditions.push(NodeCondition {
            type_: CONDITION.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(context.now)),
            last_transition_time: Some(Time(context.now)),
        });
        // The whole list is written: only on top of what was read.
        let meta = json!({"resourceVersion": node.metadata.resource_version});
        let body = json!({"metadata": meta, "status": {"conditions": conditions}});
        plan.act(Action::merge_status(node.as_ref(), body).tolerating(&[404]));
        if let Some(why) = obstacle {
            plan.note(Note::warning(
                node.as_ref(),
                "FailedToCreateRoute",
                format!("Could not create route: {why}"),
            ));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn node(range: Option<&str>, address: Option<&str>, condition: Option<(&str, &str)>) -> Value {
        let mut node = json!({"kind": "Node", "metadata": {"name": "n"}, "spec": {}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        if let Some(range) = range {
            node["spec"] = json!({"podCIDR": range, "podCIDRs": [range]});
        }
        if let Some(address) = address {
            node["status"]["addresses"] = json!([{"type": "InternalIP", "address": address}]);
        }
        if let Some((status, reason)) = condition {
            let conditions = node["status"]["conditions"].as_array_mut().expect("a list");
            conditions.push(json!({"type": "NetworkUnavailable", "status": status, "reason": reason}));
        }
        node
    }

    #[test]
    fn the_condition_follows_range_and_address() {
        let (range, address) = (Some("10.1.2.0/24"), Some("192.0.2.1"));
        let cases = [
            (node(range, address, None), "False RouteCreated", 1),
            (node(None, address, None), "True NoRouteCreated", 1),
            (node(range, None, None), "True NoRouteCreated", 1),
            (node(range, address, Some(("True", "NoRouteCreated"))), "False RouteCreated", 1),
            (node(None, address, Some(("False", "RouteCreated"))), "True NoRouteCreated", 1),
            (node(range, address, Some(("False", "RouteCreated"))), "False RouteCreated", 0),
        ];
        for (node, expected, writes) in cases {
            let scenario = Scenario::new(&[super::build], std::slice::from_ref(&node));
            let mut world = World::start(&scenario, None, false);
            world.run();
            assert_eq!(world.writes(), writes, "{node}");
            let after = world.shared.model.lock().get("Node", "", "n").expect("the node").clone();
            let conditions = after["status"]["conditions"].as_array().expect("a list").clone();
            assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{after}");
            let found = conditions.iter().find(|c| c["type"] == "NetworkUnavailable").expect("a condition");
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            assert_eq!(format!("{} {}", text("status"), text("reason")), expected, "{node}");
        }
    }

    #[test]
    fn crashes() {
        let with_route = node(Some("10.1.2.0/24"), Some("192.0.2.1"), None);
        let mut without = node(None, None, None);
        without["metadata"]["name"] = "m".into();
        check_crashes(&Scenario::new(&[super::build], &[with_route, without]));
    }
}
