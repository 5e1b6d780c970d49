//! What services and pods mean to each other: which pods stand behind a service, at which ports, and which services
//! a change of a pod concerns. Shared by Endpoints and EndpointSlices.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::{StringMap, is_terminating, name, namespace};
use crate::pods;
use crate::runtime::{Change, Key, Store};
use crate::selector::map_matches;

/// Label that marks endpoints of services without an address of their own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a service that gets its endpoints from pods.
pub fn selector(service: &Service) -> Option<&StringMap> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether a service has no cluster address.
pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("");
    address.is_empty() || address == "None"
}

/// Whether a service wants pods that are not ready too.
pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// The ports of a service.
pub fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or(&[])
}

/// The pod's addresses.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut texts: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref());
    }
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether a pod can be an endpoint at all.
pub fn may_serve(pod: &Pod, even_terminating: bool) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty() && (even_terminating || !is_terminating(pod))
}

/// The host name under which a headless service publishes a pod.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.as_deref() == Some(name(service)) && namespace(pod) == namespace(service))
        .then(|| hostname.clone())
}

/// The number of the pod's port behind a service's port; a name is looked up in the pod's containers.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let wanted = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // Init containers that keep running serve too.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let same = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
        p.name.as_ref() == Some(wanted) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.into_iter().find(same).map(|port| port.container_port)
}

/// Whether a change of a pod can matter to any service.
fn matters(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let facts = |pod: &Pod| {
        let spec = pod
            .spec
            .as_ref()
            .map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone()));
        (addresses(pod), pods::is_ready(pod), pods::is_finished(pod), is_terminating(pod), spec)
    };
    old.metadata.labels != new.metadata.labels || facts(old) != facts(new)
}

/// The keys of the services that a change of a pod concerns.
pub fn services_of(services: &Store<Service>, change: &Change<Pod>) -> Vec<Key> {
    if !matters(change) {
        return Vec::new();
    }
    let Some(latest) = change.latest() else { return Vec::new() };
    let concerned = |service: &Service| {
        change.both().any(|pod| map_matches(selector(service), pod.metadata.labels.as_ref()))
    };
    let all = services.in_namespace(namespace(latest.as_ref()));
    all.iter().filter(|service| concerned(service)).map(|service| Key::of(service.as_ref())).collect()
}
