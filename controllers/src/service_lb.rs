//! Load balancers on the nodes' own addresses, for services of type LoadBalancer without a class, or with
//! `quarterdeck.dev/node`. The service proxy of every node takes connections to these addresses; this loop only says
//! which they are. A port of the nodes belongs to one service: the oldest that asks for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, PortStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use crate::endpointslice::{BY_SERVICE, index_slices, service_value};
use crate::meta::{created_at, is_terminating, label, name, namespace, uid};
use crate::nodes;
use crate::runtime::store::IndexValues;
use crate::runtime::{Action, Context, Controller, Key, Note, Plan, ReconcileError, Store, Wiring};

/// The class of these load balancers, for services that name one.
pub const CLASS: &str = "quarterdeck.dev/node";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The cluster autoscaler's mark on a node that is about to go.
const GOING: &str = "ToBeDeletedByClusterAutoscaler";
/// Index of services: those that want a load balancer.
const WANTING: &str = "wants-load-balancer";
/// Ports on which the machines themselves must stay reachable: ssh, the store, the API server, the agents.
const RESERVED: [i32; 8] = [22, 2379, 2380, 6443, 10250, 10256, 10257, 10259];

struct LoadBalancers {
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
}

fn wants(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref();
    spec.type_.as_deref() == Some("LoadBalancer") && class.is_none_or(|class| class == CLASS)
}

fn wanting(service: &Service) -> IndexValues {
    (wants(service) && !is_terminating(service)).then(|| "yes".into()).into_iter().collect()
}

fn told(service: &Service) -> Vec<LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|balancer| balancer.ingress.clone()).unwrap_or_default()
}

/// What of a node decides whether it takes connections, and where.
fn facts(node: &Node) -> (bool, Vec<(String, String)>) {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses = addresses.map(|address| (address.type_.clone(), address.address.clone())).collect();
    (takes_connections(node), addresses)
}

fn takes_connections(node: &Node) -> bool {
    let excluded = label(node, EXCLUDED)
        .is_some_and(|value| !matches!(value, "false" | "False" | "0" | "f" | "F" | "FALSE"));
    let going = nodes::taints(node).iter().any(|taint| taint.key == GOING);
    nodes::is_ready(node) && !excluded && !going && !is_terminating(node)
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let services = wiring.store::<Service>();
    services.add_index(WANTING, wanting);
    let all = services.clone();
    wiring.on::<Service>(move |change, queue| {
        let Some(service) = change.latest() else { return };
        queue.add(Key::of(service.as_ref()));
        // Ports it lets go of may be what another waits for.
        let before = change.old.as_ref().filter(|old| wants(old));
        let same =
            before.is_none() || change.new.as_ref().map(|new| &new.spec) == before.map(|old| &old.spec);
        if !same {
            all.by(WANTING, "yes").iter().for_each(|other| queue.add(Key::of(other.as_ref())));
        }
    });
    let all = services.clone();
    let nodes = wiring.on::<Node>(move |change, queue| {
        let [before, after] = [&change.old, &change.new].map(|node| node.as_ref().map(|node| facts(node)));
        if before != after {
            all.by(WANTING, "yes").iter().for_each(|service| queue.add(Key::of(service.as_ref())));
        }
    });
    let slices = wiring.on::<EndpointSlice>(|change, queue| {
        for slice in change.both() {
            if let Some(service) = label(slice.as_ref(), "kubernetes.io/service-name") {
                queue.add(Key::new(namespace(slice.as_ref()), service));
            }
        }
    });
    index_slices(&slices);
    Box::new(LoadBalancers { services, nodes, slices })
}

impl Controller for LoadBalancers {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(service) = self.services.get(key).filter(|service| !is_terminating(service.as_ref())) else {
            return Ok(plan);
        };
        let told = told(&service);
        if !wants(&service) {
            let own = service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_none());
            if own && !told.is_empty() {
                let note = Note::normal(service.as_ref(), "DeletedLoadBalancer", "Deleted load balancer");
                plan.act(write(&service, &[]).noting(note));
            }
            return Ok(plan);
        }
        let wanted = match self.obstacle(&service) {
            None => self.addresses(&service),
            Some(why) => {
                let text = format!("Error syncing load balancer: {why}");
                plan.note(Note::warning(service.as_ref(), "SyncLoadBalancerFailed", text));
                Vec::new()
            }
        };
        if wanted == told {
            return Ok(plan);
        }
        let note = if wanted.is_empty() {
            let text = "There are no available nodes for LoadBalancer";
            Note::warning(service.as_ref(), "UnAvailableLoadBalancer", text)
        } else if told.is_empty() {
            Note::normal(service.as_ref(), "EnsuredLoadBalancer", "Ensured load balancer")
        } else {
            Note::normal(service.as_ref(), "UpdatedLoadBalancer", "Updated load balancer with new hosts")
        };
        plan.act(write(&service, &wanted).noting(note));
        Ok(plan)
    }
}

impl LoadBalancers {
    /// Why the nodes' ports cannot be this service's.
    fn obstacle(&self, service: &Service) -> Option<String> {
        let own = ports(service);
        if let Some((port, _)) = own.iter().find(|(port, _)| RESERVED.contains(port)) {
            return Some(format!("port {port} of the nodes is their own"));
        }
        let rank = |service: &Service| (created_at(&service.metadata), uid(service).to_string());
        let rivals = self.services.by(WANTING, "yes");
        let older = rivals.iter().filter(|other| rank(other) < rank(service));
        older.into_iter().find_map(|other| {
            let (port, protocol) = ports(other).intersection(&own).next().cloned()?;
            Some(format!("port {port}/{protocol} of the nodes belongs to {}", Key::of(other.as_ref())))
        })
    }

    /// The addresses of all nodes that take connections, in order, of the service's families.
    fn addresses(&self, service: &Service) -> Vec<LoadBalancerIngress> {
        let spec = service.spec.clone().unwrap_or_default();
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        let near = if local { self.nodes_with_endpoints(service) } else { BTreeSet::new() };
        let families = spec.ip_families.unwrap_or_else(|| vec!["IPv4".into()]);
        let mut found = BTreeSet::new();
        for node in self.nodes.all().iter().filter(|node| takes_connections(node)) {
            if !local || near.contains(name(node.as_ref())) {
                found.extend(families.iter().flat_map(|family| address_of(node, family)));
            }
        }
        let wish = spec.load_balancer_ip.filter(|wish| !wish.is_empty());
        let picked = found.into_iter().filter(|ip| wish.as_ref().is_none_or(|wish| wish == ip));
        picked.map(ingress).collect()
    }

    fn nodes_with_endpoints(&self, service: &Service) -> BTreeSet<String> {
        let slices = self.slices.by(BY_SERVICE, &service_value(&Key::of(service)));
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.filter(|one| one.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
        ready.filter_map(|one| one.node_name.clone()).collect()
    }
}

/// A node's address for the outside: an external one where it has it.
fn address_of(node: &Arc<Node>, family: &str) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of = |kind: &str| {
        let mut matching = addresses
            .iter()
            .filter(|address| address.type_ == kind && address.address.contains(':') == (family == "IPv6"));
        matching.next().map(|address| address.address.clone())
    };
    of("ExternalIP").or_else(|| of("InternalIP"))
}

fn ports(service: &Service) -> BTreeSet<(i32, String)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".into()))).collect()
}

fn ingress(ip: String) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(ip),
        ip_mode: Some("VIP".into()),
        ports: None::<Vec<PortStatus>>,
        hostname: None,
    }
}

fn write(service: &Service, ingress: &[LoadBalancerIngress]) -> Action {
    let balancer = if ingress.is_empty() { json!({"ingress": null}) } else { json!({ "ingress": ingress }) };
    let meta = json!({"uid": service.metadata.uid});
    Action::merge_status(service, json!({"metadata": meta, "status": {"loadBalancer": balancer}}))
        .tolerating(&[404])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::CLASS;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::{Scenario, World};
    use crate::testing::{Case, check};

    fn node(name: &str, ip: &str, more: Value) -> Value {
        let mut value = json!({"kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": ip}]}});
        more.as_object().into_iter().flatten().for_each(|(field, change)| match field.as_str() {
            "labels" => value["metadata"]["labels"] = change.clone(),
            "taints" => value["spec"]["taints"] = change.clone(),
            "ready" => value["status"]["conditions"][0]["status"] = change.clone(),
            _ => value["status"]["addresses"].as_array_mut().expect("a list").push(change.clone()),
        });
        value
    }

    fn service(name: &str, spec: Value) -> Value {
        let mut value = json!({"kind": "Service", "metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]}});
        spec.as_object().into_iter().flatten().for_each(|(k, v)| value["spec"][k] = v.clone());
        value
    }

    /// The addresses that the service `s` is given, or `-` for none told.
    fn given(objects: &[Value]) -> String {
        let plan = Case::new(super::build, objects).plan("ns/s");
        let Some(action) = plan.actions().next() else { return "-".into() };
        let crate::runtime::Verb::Patch { body, .. } = &action.verb else { panic!("{action}") };
        let list = body["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|one| one["ip"].as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn addresses() {
        let [a, b] = [node("a", "10.0.0.1", json!({})), node("b", "10.0.0.2", json!({}))];
        let changed = |more: Value| node("b", "10.0.0.2", more);
        let plain = || service("s", json!({}));
        let slice = json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "s"}},
            "endpoints": [{"addresses": ["1.1.1.1"], "nodeName": "b", "conditions": {"ready": true}}]});
        let excluded = json!({"labels": {super::EXCLUDED: ""}});
        let cases = [
            (vec![plain(), a.clone(), b.clone()], "10.0.0.1 10.0.0.2"),
            (vec![plain()], "-"),
            (vec![plain(), a.clone(), changed(json!({"ready": "False"}))], "10.0.0.1"),
            (vec![plain(), a.clone(), changed(excluded)], "10.0.0.1"),
            (
                vec![
                    plain(),
                    a.clone(),
                    changed(json!({"taints": [{"key": super::GOING, "effect": "NoSchedule"}]})),
                ],
                "10.0.0.1",
            ),
            (
                vec![plain(), changed(json!({"more": {"type": "ExternalIP", "address": "8.8.8.8"}}))],
                "8.8.8.8",
            ),
            (vec![service("s", json!({"loadBalancerClass": "other"})), a.clone()], "-"),
            (vec![service("s", json!({"loadBalancerClass": CLASS})), a.clone()], "10.0.0.1"),
            (vec![service("s", json!({"type": "ClusterIP"})), a.clone()], "-"),
            (vec![service("s", json!({"loadBalancerIP": "10.0.0.2"})), a.clone(), b.clone()], "10.0.0.2"),
            (
                vec![service("s", json!({"externalTrafficPolicy": "Local"})), a.clone(), b.clone(), slice],
                "10.0.0.2",
            ),
            (vec![service("s", json!({"ports": [{"port": 6443}]})), a.clone()], "-"),
        ];
        for (objects, expected) in cases {
            assert_eq!(given(&objects), expected, "{objects:?}");
        }
    }

    #[test]
    fn a_port_belongs_to_the_oldest() {
        let mut older = service("older", json!({}));
        older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
        let objects = [older, service("s", json!({})), node("a", "10.0.0.1", json!({}))];
        let plan = Case::new(super::build, &objects).plan("ns/s");
        assert!(plan.summary().is_empty());
        assert!(plan.notes[0].message.ends_with("port 80/TCP of the nodes belongs to ns/older"));
        check(super::build, "ns/older", &objects, "patch /api/v1/namespaces/ns/services/older/status");
    }

    #[test]
    fn a_port_is_passed_on_whatever_dies() {
        let mut older = service("older", json!({}));
        older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
        let objects = [older, service("s", json!({})), node("a", "10.0.0.1", json!({}))];
        let mut scenario = Scenario::new(&[super::build], &objects);
        scenario.steps = vec![|model| model.remove("Service", "ns", "older", None)];
        let mut world = World::start(&scenario, None, false);
        world.run();
        {
            let model = world.shared.model.lock();
            assert_eq!(model.all("Service")[0]["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
        }
        assert_eq!(check_crashes(&scenario), 2);
    }
}
