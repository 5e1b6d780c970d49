//! What proxy and DNS need to know of a Service.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{Key, Protocol};

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reachable inside the cluster only.
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias without any traffic rule.
    ExternalName,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Name; empty when the only port is unnamed.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the service's addresses.
    pub port: u16,
    /// Port on every node.
    pub node_port: Option<u16>,
}

/// A Service reduced to its traffic and naming facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Namespace and name.
    pub key: Key,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// Cluster addresses, at most one a family; empty for headless services and external names.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Target of an ExternalName service.
    pub external_name: Option<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that behave as virtual addresses (ipMode VIP, the default).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer addresses; empty means everyone.
    pub source_ranges: Vec<IpNet>,
    /// Ports.
    pub ports: Vec<PortView>,
    /// Client address affinity and its time-out in seconds.
    pub affinity_secs: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local` on a service that takes external traffic.
    pub external_local: bool,
    /// Port of the health check for load balancers.
    pub health_check_node_port: Option<u16>,
    /// Another proxy serves it (label `service.kubernetes.io/service-proxy-name`).
    pub foreign_proxy: bool,
}

/// Services and slices with this label belong to another proxy.
pub(super) const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT_SECS: u32 = 10_800;

impl ServiceView {
    /// Reduces an API object. Fields that do not parse are left out, as upstream does.
    pub fn from_api(service: &Service) -> Self {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let kind = kind(spec);
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let takes_external =
            matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer) || has_external_ips(spec);
        let external_local = takes_external && local(&spec.external_traffic_policy);
        let healthy = kind == ServiceKind::LoadBalancer && external_local;
        Self {
            key: Key::of(&service.metadata),
            kind,
            cluster_ips: cluster_ips(spec, kind),
            headless: spec.cluster_ip.as_deref() == Some("None"),
            external_name: (kind == ServiceKind::ExternalName)
                .then(|| spec.external_name.as_deref().map(Into::into))
                .flatten(),
            external_ips: parse_ips(spec.external_ips.iter().flatten().map(String::as_str)),
            load_balancer_ips: load_balancer_ips(service, kind),
            source_ranges: source_ranges(spec, kind),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            affinity_secs: affinity_secs(spec),
            internal_local: local(&spec.internal_traffic_policy),
            external_local,
            health_check_node_port: spec
                .health_check_node_port
                .filter(|_| healthy)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            foreign_proxy: service
                .metadata
                .labels
                .iter()
                .flatten()
                .any(|(k, _)| k == SERVICE_PROXY_NAME_LABEL),
        }
    }

    /// True when this machine's proxy writes rules for it.
    pub fn is_proxied(&self) -> bool {
        !self.cluster_ips.is_empty() && !self.foreign_proxy
    }
}

fn kind(spec: &ServiceSpec) -> ServiceKind {
    match spec.type_.as_deref() {
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        _ => ServiceKind::ClusterIp,
    }
}

fn has_external_ips(spec: &ServiceSpec) -> bool {
    spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())
}

fn cluster_ips(spec: &ServiceSpec, kind: ServiceKind) -> Vec<IpAddr> {
    if kind == ServiceKind::ExternalName {
        return Vec::new();
    }
    match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => parse_ips(ips.iter().map(String::as_str)),
        _ => parse_ips(spec.cluster_ip.as_deref()),
    }
}

fn load_balancer_ips(service: &Service, kind: ServiceKind) -> Vec<IpAddr> {
    if kind != ServiceKind::LoadBalancer {
        return Vec::new();
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|lb| lb.ingress.as_ref()).into_iter().flatten();
    let vip = ingress.filter(|entry| entry.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
    parse_ips(vip.filter_map(|entry| entry.ip.as_deref()))
}

fn source_ranges(spec: &ServiceSpec, kind: ServiceKind) -> Vec<IpNet> {
    if kind != ServiceKind::LoadBalancer {
        return Vec::new();
    }
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges.filter_map(|range| range.trim().parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

fn affinity_secs(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let secs = config.and_then(|client| client.timeout_seconds).and_then(|secs| u32::try_from(secs).ok());
    Some(secs.filter(|secs| *secs > 0).unwrap_or(AFFINITY_DEFAULT_SECS))
}

fn port(port: &ServicePort) -> Option<PortView> {
    Some(PortView {
        name: port.name.as_deref().unwrap_or("").into(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
    })
}

fn parse_ips<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    values.into_iter().filter_map(|value| value.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(spec: serde_json::Value, status: serde_json::Value) -> ServiceView {
        let meta = json!({"name": "web", "namespace": "shop"});
        let object = json!({"metadata": meta, "spec": spec, "status": status});
        ServiceView::from_api(&serde_json::from_value(object).expect("a service"))
    }

    #[test]
    fn a_load_balancer_keeps_only_virtual_addresses_and_its_health_port() {
        let ingress = json!([{"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}]);
        let view = view(
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.5", "fd00::5"], "clusterIP": "10.96.0.5",
                "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "junk"], "sessionAffinity": "ClientIP",
                "ports": [{"port": 80, "nodePort": 30080}, {"name": "q", "port": 53, "protocol": "UDP"},
                          {"port": 1, "protocol": "QUIC"}]}),
            json!({"loadBalancer": {"ingress": ingress}}),
        );
        assert_eq!(view.load_balancer_ips, ["198.51.100.1".parse::<IpAddr>().expect("ip")]);
        assert_eq!(view.cluster_ips.len(), 2);
        assert_eq!(view.health_check_node_port, Some(31_000));
        assert_eq!(view.source_ranges, ["10.0.0.0/8".parse::<IpNet>().expect("net")]);
        assert_eq!(view.affinity_secs, Some(AFFINITY_DEFAULT_SECS));
        assert_eq!(view.ports.len(), 2, "an unknown protocol is not served");
        assert!(view.external_local && view.is_proxied());
    }

    #[test]
    fn headless_and_external_names_are_not_proxied() {
        let headless = view(json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({}));
        assert!(headless.headless && !headless.is_proxied());
        let alias = view(json!({"type": "ExternalName", "externalName": "example.org"}), json!({}));
        assert_eq!(alias.external_name.as_deref(), Some("example.org"));
        assert!(!alias.is_proxied());
    }

    #[test]
    fn a_cluster_ip_service_ignores_the_external_policy() {
        let spec = json!({"clusterIP": "10.96.0.5", "externalTrafficPolicy": "Local"});
        assert!(!view(spec, json!({})).external_local);
    }
}
