//! Which endpoints a service should have, grouped by the ports they serve.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use crate::meta::{is_terminating, label, name, namespace};
use crate::pods;
use crate::runtime::Store;
use crate::service_pods;

/// Address family of slices of IPv4 addresses.
pub const IPV4: &str = "IPv4";
/// Address family of slices of IPv6 addresses.
pub const IPV6: &str = "IPv6";
/// Label of nodes: their zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// What groups endpoints into slices. Ordered, so that every run sees groups in the same order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey(Vec<(String, String, i32, String)>);

impl PortKey {
    /// The key of a list of ports.
    pub fn of(ports: &[EndpointPort]) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut key: Vec<_> = ports
            .iter()
            .map(|p| (text(&p.name), text(&p.protocol), p.port.unwrap_or(0), text(&p.app_protocol)))
            .collect();
        key.sort();
        Self(key)
    }
}

/// Endpoints with the same ports.
pub struct Group {
    /// The ports.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What there should be.
pub struct Desired {
    /// Endpoints by ports.
    pub groups: BTreeMap<PortKey, Group>,
    /// A pod left out because its node is not in the cache.
    pub missing_node: Option<String>,
}

/// The address families of a service.
pub fn families(service: &Service) -> Vec<&'static str> {
    let Some(spec) = &service.spec else { return vec![IPV4] };
    let named: Vec<&'static str> =
        spec.ip_families.iter().flatten().map(|family| if family == "IPv6" { IPV6 } else { IPV4 }).collect();
    if !named.is_empty() {
        return named;
    }
    match spec.cluster_ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok()) {
        Some(IpAddr::V6(_)) => vec![IPV6],
        Some(IpAddr::V4(_)) => vec![IPV4],
        None => vec![IPV4, IPV6],
    }
}

/// The endpoints of one address family.
pub fn desired(service: &Service, pods: &[Arc<Pod>], nodes: &Store<Node>, family: &str) -> Desired {
    let mut found = Desired { groups: BTreeMap::new(), missing_node: None };
    for pod in pods.iter().filter(|pod| service_pods::may_serve(pod, true)) {
        let node = nodes.named("", pods::node_name(pod));
        if node.is_none() && !service_pods::publishes_not_ready(service) {
            found.missing_node = Some(name(pod.as_ref()).to_string());
            continue;
        }
        let ports = ports_of(service, pod);
        let group = found.groups.entry(PortKey::of(&ports));
        let group = group.or_insert_with(|| Group { ports, endpoints: Vec::new() });
        let endpoint = endpoint(service, pod, node.as_deref(), family);
        if !endpoint.addresses.is_empty() {
            group.endpoints.push(endpoint);
        }
    }
    found
}

fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let known = service_pods::ports(service).iter().filter_map(|port| {
        let number = service_pods::target_port(pod, port)?;
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    known.collect()
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, family: &str) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), is_terminating(pod));
    let ready = service_pods::publishes_not_ready(service) || (serving && !terminating);
    let of_family = |address: &IpAddr| address.is_ipv6() == (family == IPV6);
    let addresses = service_pods::addresses(pod);
    Endpoint {
        addresses: addresses.iter().filter(|address| of_family(address)).map(IpAddr::to_string).collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname(pod, service),
        node_name: Some(pods::node_name(pod).to_string()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(namespace(pod).to_string()),
            name: Some(name(pod).to_string()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: node.and_then(|node| label(node, ZONE)).filter(|zone| !zone.is_empty()).map(str::to_string),
        ..Endpoint::default()
    }
}
