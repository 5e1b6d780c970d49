//! What proxy and DNS need to know of an EndpointSlice.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::{Key, Protocol, service::SERVICE_PROXY_NAME_LABEL};

/// One port that every endpoint of the slice serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name, matched with the service port's name.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port on the endpoint's address.
    pub port: u16,
}

/// One endpoint. Upstream reads only the first address of the list, and so do we.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Address.
    pub ip: IpAddr,
    /// Node that runs it.
    pub node: Option<Box<str>>,
    /// Host name for DNS.
    pub hostname: Option<Box<str>>,
    /// Takes new traffic.
    pub ready: bool,
    /// Would take traffic; differs from `ready` only while terminating.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Zones that should use it.
    pub zone_hints: Box<[Box<str>]>,
    /// Nodes that should use it.
    pub node_hints: Box<[Box<str>]>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceView {
    /// Namespace and name.
    pub key: Key,
    /// Name of the service it belongs to.
    pub service: Box<str>,
    /// Ports; those without number (all ports) are left out.
    pub ports: Vec<SlicePort>,
    /// Endpoints with a valid address.
    pub endpoints: Vec<EndpointView>,
    /// When the change behind this version began, for the programming latency metric.
    pub triggered: Option<Timestamp>,
    /// Another proxy serves it, or the service is headless: not for rules.
    pub not_proxied: bool,
}

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl SliceView {
    /// Reduces an API object; `None` when it names no service.
    pub fn from_api(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get(SERVICE_NAME_LABEL)?;
        let annotations = slice.metadata.annotations.as_ref();
        let triggered = annotations.and_then(|all| all.get(TRIGGER_TIME_ANNOTATION));
        Some(Self {
            key: Key::of(&slice.metadata),
            service: service.as_str().into(),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(endpoint).collect(),
            triggered: triggered.and_then(|time| time.parse().ok()),
            not_proxied: labels.contains_key(SERVICE_PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL),
        })
    }

    /// The service it belongs to.
    pub fn service_key(&self) -> Key {
        Key { namespace: self.key.namespace.clone(), name: self.service.clone() }
    }
}

fn port(port: &EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.as_deref().unwrap_or("").into(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: u16::try_from(port.port?).ok()?,
    })
}

fn endpoint(endpoint: &Endpoint) -> Option<EndpointView> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|h| h.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).into_iter().flatten();
    Some(EndpointView {
        ip: endpoint.addresses.first()?.parse().ok()?,
        node: endpoint.node_name.as_deref().map(Into::into),
        hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Into::into),
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        zone_hints: zones.map(|zone| zone.name.as_str().into()).collect(),
        node_hints: nodes.map(|node| node.name.as_str().into()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_conditions_mean_ready_and_bad_entries_are_left_out() {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["10.1.0.2"], "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["host.example"]}],
        });
        let view =
            SliceView::from_api(&serde_json::from_value(object).expect("a slice")).expect("has a service");
        assert_eq!(view.service_key(), Key::new("shop", "web"));
        assert_eq!((view.ports.len(), view.endpoints.len()), (1, 2));
        let (first, second) = (&view.endpoints[0], &view.endpoints[1]);
        assert!(first.ready && first.serving && !first.terminating);
        assert!(!second.ready && second.serving && second.terminating);
        assert_eq!((&*first.zone_hints[0], &*first.node_hints[0]), ("a", "n1"));
        assert!(view.triggered.is_some() && !view.not_proxied);
    }

    #[test]
    fn a_slice_without_service_is_not_ours() {
        let object = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
        assert_eq!(SliceView::from_api(&serde_json::from_value(object).expect("a slice")), None);
    }
}
