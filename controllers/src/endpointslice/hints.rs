//! Who should use an endpoint, by the service's traffic distribution: clients of the same zone, or of the same node.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use super::placement::Writes;

/// How near clients should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Any,
    Zone,
    Node,
}

fn nearness(service: Option<&Service>) -> Nearness {
    match service
        .and_then(|service| service.spec.as_ref())
        .and_then(|spec| spec.traffic_distribution.as_deref())
    {
        Some("PreferClose" | "PreferSameZone") => Nearness::Zone,
        Some("PreferSameNode") => Nearness::Node,
        _ => Nearness::Any,
    }
}

fn hints_for(endpoint: &Endpoint, nearness: Nearness) -> Option<EndpointHints> {
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
    if nearness == Nearness::Any || !ready {
        return None;
    }
    let zone = endpoint.zone.as_ref().filter(|zone| !zone.is_empty());
    let node = endpoint.node_name.as_ref().filter(|_| nearness == Nearness::Node);
    // A cluster without zones has nodes all the same.
    (zone.is_some() || node.is_some()).then(|| EndpointHints {
        for_zones: zone.map(|zone| vec![ForZone { name: zone.clone() }]),
        for_nodes: node.map(|node| vec![ForNode { name: node.clone() }]),
    })
}

fn is_current(slice: &EndpointSlice, nearness: Nearness) -> bool {
    slice.endpoints.iter().flatten().all(|endpoint| endpoint.hints == hints_for(endpoint, nearness))
}

/// Sets the hints of everything that is written, and adds slices that need nothing but other hints. Without a service
/// there are no hints.
pub fn assign(service: Option<&Service>, writes: &mut Writes) {
    let nearness = nearness(service);
    let (current, outdated) = writes.unchanged.drain(..).partition(|slice| is_current(slice, nearness));
    writes.unchanged = current;
    let outdated: Vec<std::sync::Arc<EndpointSlice>> = outdated;
    writes.update.extend(outdated.iter().map(|slice| slice.as_ref().clone()));
    for slice in writes.create.iter_mut().chain(&mut writes.update) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.hints = hints_for(endpoint, nearness);
        }
    }
}
