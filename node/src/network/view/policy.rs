//! NetworkPolicy, with selectors compiled and addresses parsed.

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Key, Protocol, Selector};

/// An address range with holes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNet,
    /// Ranges inside it that do not match.
    pub except: Vec<IpNet>,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Pods: in the policy's own namespace when `namespaces` is absent, else in all selected ones.
    Pods {
        /// Selects namespaces.
        namespaces: Option<Selector>,
        /// Selects pods; an absent selector in the API is the empty one here.
        pods: Selector,
    },
    /// Addresses.
    Block(IpBlock),
}

/// Which destination ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PortMatch {
    /// Every port of the protocol.
    Any,
    /// From and to, both included.
    Range(u16, u16),
    /// A container port's name, resolved on the destination pod.
    Named(Box<str>),
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortRule {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports of that protocol.
    pub ports: PortMatch,
}

/// One ingress or egress rule. An empty list places no limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Other side; empty means anyone.
    pub peers: Vec<Peer>,
    /// Destination ports; empty means all ports of all protocols.
    pub ports: Vec<PortRule>,
    /// The API named peers or ports, but none of them can be understood: the rule allows nothing.
    pub never: bool,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// Namespace and name.
    pub key: Key,
    /// Pods of the policy's namespace that it isolates.
    pub pods: Selector,
    /// Rules for incoming traffic; `None` when the policy does not isolate that direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for outgoing traffic; `None` when the policy does not isolate that direction.
    pub egress: Option<Vec<Rule>>,
}

impl PolicyView {
    /// Reduces an API object, with the API's defaults for absent `policyTypes`.
    pub fn from_api(policy: &NetworkPolicy) -> Self {
        let spec = policy.spec.clone().unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let has = |name: &str| types.iter().any(|kind| kind == name);
        let isolates_ingress = types.is_empty() || has("Ingress");
        let isolates_egress = has("Egress") || (types.is_empty() && spec.egress.is_some());
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        Self {
            key: Key::of(&policy.metadata),
            pods: spec.pod_selector.as_ref().map(Selector::from_api).unwrap_or_default(),
            ingress: isolates_ingress
                .then(|| ingress.iter().map(|r| rule(r.from.as_deref(), r.ports.as_deref())).collect()),
            egress: isolates_egress
                .then(|| egress.iter().map(|r| rule(r.to.as_deref(), r.ports.as_deref())).collect()),
        }
    }
}

fn rule(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
    let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
    let known_peers: Vec<_> = peers.iter().filter_map(peer).collect();
    let known_ports: Vec<_> = ports.iter().filter_map(port).collect();
    let never =
        (known_peers.is_empty() && !peers.is_empty()) || (known_ports.is_empty() && !ports.is_empty());
    Rule { peers: known_peers, ports: known_ports, never }
}

fn peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten();
        return Some(Peer::Block(IpBlock {
            cidr: block.cidr.parse().ok()?,
            // A hole that cannot be read must not turn into allowed addresses: the whole block is dropped.
            except: except.map(|range| range.parse().ok()).collect::<Option<_>>()?,
        }));
    }
    if peer.namespace_selector.is_none() && peer.pod_selector.is_none() {
        return None;
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(Selector::from_api),
        pods: peer.pod_selector.as_ref().map(Selector::from_api).unwrap_or_default(),
    })
}

fn port(port: &NetworkPolicyPort) -> Option<PortRule> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let ports = match &port.port {
        None => PortMatch::Any,
        Some(IntOrString::String(name)) => PortMatch::Named(name.as_str().into()),
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            PortMatch::Range(u16::try_from(*first).ok()?, u16::try_from(last).ok()?)
        }
    };
    Some(PortRule { protocol, ports })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(spec: serde_json::Value) -> PolicyView {
        let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        PolicyView::from_api(&serde_json::from_value(object).expect("a policy"))
    }

    #[test]
    fn policy_types_default_from_the_rules_that_are_present() {
        let only_ingress = view(json!({"podSelector": {}}));
        assert_eq!((only_ingress.ingress, only_ingress.egress), (Some(vec![]), None));
        let both = view(json!({"podSelector": {}, "egress": [{}]}));
        assert_eq!(both.egress.map(|rules| rules.len()), Some(1));
        assert_eq!(both.ingress, Some(vec![]));
        let egress = view(json!({"podSelector": {}, "policyTypes": ["Egress"]}));
        assert_eq!((egress.ingress, egress.egress), (None, Some(vec![])));
    }

    #[test]
    fn peers_and_ports_are_parsed_and_unknown_ones_allow_nothing() {
        let parsed = view(json!({"podSelector": {}, "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                      {"namespaceSelector": {}}, {"podSelector": {"matchLabels": {"a": "b"}}}],
             "ports": [{"port": 80, "endPort": 90}, {"port": "http"}, {"protocol": "UDP"}]},
            {"from": [{"ipBlock": {"cidr": "nonsense"}}]}]}));
        let rules = parsed.ingress.expect("isolates ingress");
        assert_eq!((rules[0].peers.len(), rules[0].ports.len(), rules[0].never), (3, 3, false));
        assert_eq!(rules[0].ports[0].ports, PortMatch::Range(80, 90));
        assert!(matches!(&rules[0].peers[1], Peer::Pods { namespaces: Some(_), .. }));
        assert!(rules[1].never, "a rule whose peers cannot be read must not allow everyone");
    }
}
