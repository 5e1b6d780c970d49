//! Gives every node a range of pod addresses of its own, one per family of the cluster's ranges. What is taken is what
//! nodes have, plus what was given and is not seen in the cache yet; one worker, so no range is given twice.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;

use crate::meta::{is_terminating, name};
use crate::options::NetworkOptions;
use crate::runtime::{Action, Context, Controller, Failure, Key, Note, Plan, ReconcileError, Store, Wiring};

struct NodeIpam {
    nodes: Store<Node>,
    options: NetworkOptions,
    /// Given and not seen yet, by node.
    given: Mutex<FxHashMap<String, Vec<IpNet>>>,
}

/// Builds the loop; its keys are nodes. Without `--allocate-node-cidrs` it does nothing.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let nodes = wiring.on_self::<Node>();
    Box::new(NodeIpam { nodes, options: wiring.options().network.clone(), given: Mutex::default() })
}

fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let mut texts: Vec<&str> = spec.pod_cidrs.iter().flatten().map(String::as_str).collect();
    if texts.is_empty() {
        texts.extend(spec.pod_cidr.as_deref());
    }
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

impl NodeIpam {
    fn mask(&self, range: &IpNet) -> u8 {
        match range {
            IpNet::V4(_) => self.options.node_mask_v4,
            IpNet::V6(_) => self.options.node_mask_v6,
        }
    }

    /// The first free part of a cluster range.
    fn free(&self, cluster: &IpNet, taken: &FxHashSet<IpNet>) -> Option<IpNet> {
        let mask = self.mask(cluster);
        let mut parts: Box<dyn Iterator<Item = IpNet>> = match cluster {
            IpNet::V4(range) => Box::new(range.subnets(mask).ok()?.map(IpNet::V4)),
            IpNet::V6(range) => Box::new(range.subnets(mask).ok()?.map(IpNet::V6)),
        };
        let reserved = |part: &IpNet| self.options.service_cidrs.iter().any(|service| overlap(part, service));
        parts.find(|part| !taken.contains(part) && !reserved(part))
    }
}

impl Controller for NodeIpam {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let mut given = self.given.lock();
        let node = self.nodes.get(key).filter(|node| !is_terminating(node.as_ref()));
        let Some(node) = node.filter(|node| self.options.allocate_node_cidrs && ranges_of(node).is_empty())
        else {
            given.remove(&*key.name);
            return Ok(plan);
        };
        let nodes = self.nodes.all();
        let others =
            given.iter().filter(|(of, _)| of.as_str() != &*key.name).flat_map(|(_, ranges)| ranges.clone());
        let taken: FxHashSet<IpNet> = nodes.iter().flat_map(|node| ranges_of(node)).chain(others).collect();
        let parts = self.options.cluster_cidrs.iter().map(|cluster| self.free(cluster, &taken));
        let Some(parts) = parts.collect::<Option<Vec<IpNet>>>() else {
            let message = format!("Node {} status is now: CIDRNotAvailable", name(node.as_ref()));
            plan.note(Note::normal(node.as_ref(), "CIDRNotAvailable", message));
            plan.problem = Some(Failure::local("no range of pod addresses is free"));
            return Ok(plan);
        };
        let texts: Vec<String> = parts.iter().map(IpNet::to_string).collect();
        let body = json!({"metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        given.insert(key.name.to_string(), parts);
        plan.act(Action::merge(node.as_ref(), body).tolerating(&[404]));
        Ok(plan)
    }

    fn workers(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::options::{NetworkOptions, Options};
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};

    fn options(cluster: &[&str], mask: u8) -> Options {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().expect("a range")).collect();
        let network = NetworkOptions {
            allocate_node_cidrs: true,
            cluster_cidrs: parse(cluster),
            service_cidrs: parse(&["10.1.0.0/24"]),
            node_mask_v4: mask,
            node_mask_v6: 64,
        };
        Options { network, ..Options::default() }
    }

    fn scenario(cluster: &[&str], mask: u8) -> Scenario {
        let mut taken = json!({"kind": "Node", "metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]}});
        taken["metadata"]["uid"] = "a".into();
        let fresh = |name: &str| json!({"kind": "Node", "metadata": {"name": name}});
        let mut scenario = Scenario::new(&[super::build], &[taken, fresh("b"), fresh("c")]);
        scenario.options = options(cluster, mask);
        scenario
    }

    fn ranges(scenario: &Scenario) -> Vec<String> {
        let mut world = World::start(scenario, None, false);
        world.run();
        let nodes = world.shared.model.lock().all("Node");
        nodes.iter().map(|node| node["spec"]["podCIDRs"].to_string()).collect()
    }

    #[test]
    fn ranges_are_given_once() {
        let scenario = scenario(&["10.1.0.0/16"], 24);
        let mut given = ranges(&scenario);
        given.sort();
        assert_eq!(given, ["[\"10.1.1.0/24\"]", "[\"10.1.2.0/24\"]", "[\"10.1.3.0/24\"]"]);
    }

    #[test]
    fn dual_stack() {
        let given = ranges(&scenario(&["10.1.0.0/16", "fd00::/48"], 24));
        assert!(given.iter().any(|text| text == "[\"10.1.2.0/24\",\"fd00::/64\"]"), "{given:?}");
    }

    #[test]
    fn crashes() {
        let mut scenario = scenario(&["10.1.0.0/16"], 24);
        scenario.objects.pop();
        check_crashes(&scenario);
    }
}
