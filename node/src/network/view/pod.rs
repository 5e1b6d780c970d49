//! What network policies need to know of pods and namespaces.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::{Key, Protocol};

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Name.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

/// A Pod that has its own addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Namespace and name.
    pub key: Key,
    /// Node it runs on.
    pub node: Box<str>,
    /// Addresses; empty before the sandbox runs, after the pod ended and on the host's network.
    pub ips: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Named ports of all containers.
    pub named_ports: Vec<NamedPort>,
}

impl PodView {
    /// Reduces an API object. A pod on the host's network or past its end has no address of its own.
    pub fn from_api(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let ips = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default().iter();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default().iter();
        let ports = containers.chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        Self {
            key: Key::of(&pod.metadata),
            node: spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("").into(),
            ips: if ended || host { Vec::new() } else { ips.filter_map(|ip| ip.parse().ok()).collect() },
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            named_ports: ports
                .filter_map(|port| {
                    Some(NamedPort {
                        name: port.name.as_deref()?.into(),
                        protocol: Protocol::parse(port.protocol.as_deref())?,
                        port: u16::try_from(port.container_port).ok()?,
                    })
                })
                .collect(),
        }
    }
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// Name.
    pub name: Box<str>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl NamespaceView {
    /// Reduces an API object.
    pub fn from_api(namespace: &Namespace) -> Self {
        Self {
            name: namespace.metadata.name.as_deref().unwrap_or("").into(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
        }
    }
}
