//! Services: linked fields, IP families, what allocation fills in, and validation.
//!
//! The allocations themselves are in [`crate::alloc`]; everything here is pure.

pub mod families;
pub mod fields;
pub mod hooks;
pub mod validate;
pub mod validate_ips;

use serde_json::Value;

use crate::contract::Object;
use crate::kinds::json::{flag, items, text, texts};

/// The value of `clusterIP` that asks for no address.
pub const HEADLESS: &str = "None";

fn service_type(service: &Object) -> &str {
    text(service, &["spec", "type"])
}

fn is_external_name(service: &Object) -> bool {
    service_type(service) == "ExternalName"
}

/// Whether the only cluster IP is `None`.
pub fn is_headless(service: &Object) -> bool {
    let ips = items(service, &["spec", "clusterIPs"]);
    ips.len() == 1 && ips[0] == HEADLESS
}

/// Whether the service holds node ports.
pub fn needs_node_ports(service: &Object) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => flag(service, &["spec", "allocateLoadBalancerNodePorts"]) != Some(false),
        _ => false,
    }
}

/// Whether the service holds a health-check node port.
pub fn needs_health_check_port(service: &Object) -> bool {
    service_type(service) == "LoadBalancer" && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

/// Whether traffic from outside may reach the service.
pub fn is_externally_accessible(service: &Object) -> bool {
    let by_ips = service_type(service) == "ClusterIP" && !items(service, &["spec", "externalIPs"]).is_empty();
    matches!(service_type(service), "LoadBalancer" | "NodePort") || by_ips
}

/// The cluster IPs that are addresses.
pub fn addresses(service: &Object) -> Vec<String> {
    texts(service, &["spec", "clusterIPs"])
        .filter(|ip| *ip != HEADLESS && !ip.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Every node port the service holds, the health-check one included.
pub fn node_ports(service: &Object) -> Vec<u16> {
    let ports = items(service, &["spec", "ports"]).iter().filter_map(|port| port["nodePort"].as_u64());
    let health = service["spec"]["healthCheckNodePort"].as_u64();
    ports.chain(health).filter(|port| *port != 0).filter_map(|port| u16::try_from(port).ok()).collect()
}

/// The family of an address: `IPv4` or `IPv6`.
pub fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn same_list(a: &Object, b: &Object, field: &str) -> bool {
    let list = |object: &Object| items(object, &["spec", field]).to_vec();
    list(a) == list(b)
}

fn spec_list(service: &Object, field: &str) -> Value {
    Value::Array(items(service, &["spec", field]).to_vec())
}
