//! What proxy and pod network need to know of a Node.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: Box<str>,
    /// Topology zone, empty when the node has no such label.
    pub zone: Box<str>,
    /// Addresses of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// Pod ranges, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Being deleted, or about to be by an autoscaler: load balancers should leave it.
    pub leaving: bool,
}

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Set by the cluster autoscaler before it removes a node.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl NodeView {
    /// Reduces an API object.
    pub fn from_api(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let internal = addresses.filter(|address| address.type_ == "InternalIP");
        let many = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        let one = spec.and_then(|spec| spec.pod_cidr.clone()).filter(|_| many.is_empty());
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        Self {
            name: node.metadata.name.as_deref().unwrap_or("").into(),
            zone: zone.map(String::as_str).unwrap_or("").into(),
            internal_ips: internal.filter_map(|address| address.address.parse().ok()).collect(),
            pod_cidrs: many.iter().chain(&one).filter_map(|cidr| cidr.parse().ok()).collect(),
            leaving: node.metadata.deletion_timestamp.is_some()
                || taints.into_iter().any(|taint| taint.key == TO_BE_DELETED_TAINT),
        }
    }

    /// First internal address of the family of `like`.
    pub fn internal_ip_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.internal_ips.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }
}
