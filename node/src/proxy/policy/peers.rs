//! The sets of peer addresses that belong to one policy.
//!
//! A rule has up to three sets a family: addresses of selected pods, address ranges, and, for named ports of other
//! pods, address with protocol and port number.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::ranges;
use crate::{
    network::{
        nft::Fragment,
        view::{Family, IpBlock, Key, NamespaceView, Peer, PodView, PolicyView, PortMatch, Rule, Selector},
    },
    proxy::rules::unique_name,
};

/// A direction of traffic, seen from the isolated pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The policy's rules for it, when it isolates that direction.
    pub fn rules(self, policy: &PolicyView) -> Option<&[Rule]> {
        match self {
            Self::Ingress => policy.ingress.as_deref(),
            Self::Egress => policy.egress.as_deref(),
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Ingress => 'i',
            Self::Egress => 'e',
        }
    }
}

/// Which of a rule's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSet {
    /// Addresses of pods.
    Pods,
    /// Address ranges.
    Blocks,
    /// Pods with a named port.
    Named,
}

/// Name of a set of a rule.
pub fn set_name(policy: &Key, direction: Direction, rule: usize, which: PeerSet, family: Family) -> Arc<str> {
    let which = match which {
        PeerSet::Pods => "pods",
        PeerSet::Blocks => "blocks",
        PeerSet::Named => "ports",
    };
    unique_name(&format!("np{}-{}{rule}-{which}", family.digit(), direction.letter()), &policy.to_string())
}

/// The pods and namespaces that selectors are evaluated on.
#[derive(Debug, Default)]
pub struct World {
    /// Pods of the cluster.
    pub pods: FxHashMap<Key, Arc<PodView>>,
    /// Namespaces by name.
    pub namespaces: FxHashMap<Box<str>, Arc<NamespaceView>>,
}

impl World {
    /// True when a peer of a policy in `namespace` means this pod.
    pub fn is_peer(&self, peer: &Peer, namespace: &str, pod: &PodView) -> bool {
        match peer {
            Peer::Block(_) => false,
            Peer::Pods { namespaces, pods } => {
                self.is_peer_namespace(namespaces.as_ref(), namespace, &pod.key.namespace)
                    && pods.matches(&pod.labels)
            }
        }
    }

    fn is_peer_namespace(&self, selector: Option<&Selector>, own: &str, other: &str) -> bool {
        match selector {
            None => own == other,
            Some(selector) => {
                self.namespaces.get(other).is_some_and(|namespace| selector.matches(&namespace.labels))
            }
        }
    }
}

/// What sets a rule has; the chain that uses them must agree.
pub fn sets_of(direction: Direction, rule: &Rule) -> impl Fn(PeerSet) -> bool + use<> {
    let pods = rule.peers.iter().any(|peer| matches!(peer, Peer::Pods { .. }));
    let blocks = rule.peers.iter().any(|peer| matches!(peer, Peer::Block(_)));
    let named = direction == Direction::Egress
        && (pods || rule.peers.is_empty())
        && rule.ports.iter().any(|port| matches!(port.ports, PortMatch::Named(_)));
    move |which| match which {
        PeerSet::Pods => pods,
        PeerSet::Blocks => blocks,
        PeerSet::Named => named,
    }
}

/// All peer sets of a policy with their elements.
pub fn fragment(policy: &PolicyView, world: &World) -> Fragment {
    let mut fragment = Fragment::default();
    for direction in Direction::ALL {
        let rules = direction.rules(policy).unwrap_or_default();
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| !rule.never) {
            for family in Family::ALL {
                let name = |which| set_name(&policy.key, direction, number, which, family);
                let has = sets_of(direction, rule);
                if has(PeerSet::Pods) {
                    pods(&mut fragment, &name(PeerSet::Pods), policy, rule, world, family);
                }
                if has(PeerSet::Blocks) {
                    blocks(&mut fragment, &name(PeerSet::Blocks), rule, family);
                }
                if has(PeerSet::Named) {
                    named(&mut fragment, &name(PeerSet::Named), policy, rule, world, family);
                }
            }
        }
    }
    fragment
}

fn address(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn selected<'a>(
    policy: &'a PolicyView,
    rule: &'a Rule,
    world: &'a World,
) -> impl Iterator<Item = &'a PodView> {
    let pods = world.pods.values().map(|pod| &**pod).filter(|pod| !pod.ips.is_empty());
    pods.filter(|pod| {
        rule.peers.is_empty() || rule.peers.iter().any(|peer| world.is_peer(peer, &policy.key.namespace, pod))
    })
}

fn pods(f: &mut Fragment, name: &Arc<str>, policy: &PolicyView, rule: &Rule, world: &World, family: Family) {
    f.set(name, format!("type {};", address(family)));
    for pod in selected(policy, rule, world) {
        for ip in pod.ips.iter().filter(|ip| Family::of(**ip) == family) {
            f.element(name, ip.to_string());
        }
    }
}

fn blocks(f: &mut Fragment, name: &Arc<str>, rule: &Rule, family: Family) {
    f.set(name, format!("type {}; flags interval;", address(family)));
    let all = rule.peers.iter().filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    });
    let all: Vec<IpBlock> = all.cloned().collect();
    for range in ranges::elements(&all, family) {
        f.element(name, range);
    }
}

fn named(f: &mut Fragment, name: &Arc<str>, policy: &PolicyView, rule: &Rule, world: &World, family: Family) {
    f.set(name, format!("type {} . inet_proto . inet_service;", address(family)));
    for pod in selected(policy, rule, world) {
        for wanted in &rule.ports {
            let PortMatch::Named(wanted_name) = &wanted.ports else { continue };
            let matching =
                pod.named_ports.iter().filter(|p| p.name == *wanted_name && p.protocol == wanted.protocol);
            for port in matching {
                for ip in pod.ips.iter().filter(|ip| Family::of(**ip) == family) {
                    f.element(name, format!("{ip} . {} . {}", port.protocol, port.port));
                }
            }
        }
    }
}
