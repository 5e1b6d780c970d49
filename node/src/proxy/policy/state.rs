//! Which policies apply to which local pods, kept up to date by events.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    chain,
    peers::{self, Direction, World},
};
use crate::{
    network::{
        feed::Change,
        nft::{Fragment, Hook},
        view::{Family, Key, NamespaceView, Peer, PodView, PolicyView},
    },
    proxy::rules::unique_name,
};

/// Who owns objects of the policy part of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyOwner {
    /// The base chain and the verdict maps.
    Base,
    /// Peer sets of a policy.
    Policy(Key),
    /// Map entries and chains of an isolated local pod.
    Pod(Key),
}

/// Policies, pods and namespaces, as far as they matter to the pods of one node.
#[derive(Debug, Default)]
pub struct PolicyState {
    node: Box<str>,
    world: World,
    policies: FxHashMap<Key, Arc<PolicyView>>,
    /// Policies that select at least one local pod, as of the last flush.
    active: FxHashSet<Key>,
    dirty_policies: FxHashSet<Key>,
    dirty_pods: FxHashSet<Key>,
    base_written: bool,
}

/// The chain that isolates pods: it is there once there is any policy.
pub const POLICY_CHAIN: &str = "policy-forward";

/// Runs just before the service proxy's filters, after destinations were rewritten.
const FORWARD: Hook = Hook { kind: "filter", hook: "forward", priority: -1 };

impl PolicyState {
    /// State for the pods of `node`.
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// True when any policy exists: from then on pods have to be known.
    pub fn needs_pods(&self) -> bool {
        !self.policies.is_empty()
    }

    /// A policy changed.
    pub fn policy(&mut self, change: &Change<PolicyView>) {
        let key = match change {
            Change::Set(policy) => {
                if self.policies.get(&policy.key).is_some_and(|known| known == policy) {
                    return;
                }
                self.policies.insert(policy.key.clone(), policy.clone());
                &policy.key
            }
            Change::Gone(key) => {
                self.policies.remove(key);
                key
            }
        };
        self.dirty_policies.insert(key.clone());
        let local = self.world.pods.values().filter(|pod| pod.node == self.node);
        let same = local.filter(|pod| pod.key.namespace == key.namespace).map(|pod| pod.key.clone());
        self.dirty_pods.extend(same);
    }

    /// A namespace changed: only its labels matter.
    pub fn namespace(&mut self, change: &Change<NamespaceView>) {
        let before = match change {
            Change::Set(namespace) => self.world.namespaces.insert(namespace.name.clone(), namespace.clone()),
            Change::Gone(key) => self.world.namespaces.remove(&key.name),
        };
        if let (Change::Set(namespace), Some(before)) = (change, &before)
            && before.labels == namespace.labels
        {
            return;
        }
        let selects = |policy: &&Arc<PolicyView>| {
            policy_peers(policy).any(|peer| matches!(peer, Peer::Pods { namespaces: Some(_), .. }))
        };
        let affected = self.policies.values().filter(selects).map(|policy| policy.key.clone());
        self.dirty_policies.extend(affected);
    }

    /// A pod changed.
    pub fn pod(&mut self, change: &Change<PodView>) {
        let (key, now) = match change {
            Change::Set(pod) => (&pod.key, Some(pod.clone())),
            Change::Gone(key) => (key, None),
        };
        let before = match &now {
            Some(pod) => self.world.pods.insert(key.clone(), pod.clone()),
            None => self.world.pods.remove(key),
        };
        if before == now {
            return;
        }
        let seen = [before, now];
        let seen = || seen.iter().flatten();
        if seen().any(|pod| pod.node == self.node) {
            self.dirty_pods.insert(key.clone());
        }
        for (policy_key, policy) in &self.policies {
            let touches =
                |peer: &Peer| seen().any(|pod| self.world.is_peer(peer, &policy_key.namespace, pod));
            if has_open_named_rule(policy) || policy_peers(policy).any(touches) {
                self.dirty_policies.insert(policy_key.clone());
            }
        }
    }

    /// The fragments that changed since the last call.
    pub fn flush(&mut self) -> Vec<(PolicyOwner, Fragment)> {
        let mut out = Vec::new();
        if self.needs_pods() && !std::mem::replace(&mut self.base_written, true) {
            out.push((PolicyOwner::Base, base()));
        }
        for key in std::mem::take(&mut self.dirty_pods) {
            let fragment = self.pod_fragment(&key);
            out.push((PolicyOwner::Pod(key), fragment));
        }
        self.refresh_active();
        for key in std::mem::take(&mut self.dirty_policies) {
            let policy = self.policies.get(&key).filter(|_| self.active.contains(&key));
            let fragment = policy.map(|policy| peers::fragment(policy, &self.world)).unwrap_or_default();
            out.push((PolicyOwner::Policy(key), fragment));
        }
        out
    }

    fn refresh_active(&mut self) {
        let local: Vec<_> = self.local_pods().collect();
        let selects = |policy: &&Arc<PolicyView>| local.iter().any(|pod| selects(policy, pod));
        let active: FxHashSet<Key> =
            self.policies.values().filter(selects).map(|policy| policy.key.clone()).collect();
        let changed: Vec<_> = active.symmetric_difference(&self.active).cloned().collect();
        self.dirty_policies.extend(changed);
        self.active = active;
    }

    fn local_pods(&self) -> impl Iterator<Item = &Arc<PodView>> {
        self.world.pods.values().filter(|pod| pod.node == self.node && !pod.ips.is_empty())
    }

    fn pod_fragment(&self, key: &Key) -> Fragment {
        let mut fragment = Fragment::default();
        let Some(pod) = self.world.pods.get(key).filter(|pod| pod.node == self.node) else {
            return fragment;
        };
        let mut policies: Vec<&PolicyView> =
            self.policies.values().map(|policy| &**policy).filter(|policy| selects(policy, pod)).collect();
        policies.sort_by(|a, b| a.key.cmp(&b.key));
        for direction in Direction::ALL {
            let isolating: Vec<&PolicyView> =
                policies.iter().copied().filter(|policy| direction.rules(policy).is_some()).collect();
            if isolating.is_empty() {
                continue;
            }
            for ip in &pod.ips {
                isolate(&mut fragment, pod, *ip, &isolating, direction);
            }
        }
        fragment
    }
}

fn selects(policy: &PolicyView, pod: &PodView) -> bool {
    policy.key.namespace == pod.key.namespace && policy.pods.matches(&pod.labels)
}

fn policy_peers(policy: &PolicyView) -> impl Iterator<Item = &Peer> {
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    rules.flat_map(|rule| &rule.peers)
}

/// Egress to a named port of anybody: every pod with such a port matters.
fn has_open_named_rule(policy: &PolicyView) -> bool {
    use crate::network::view::PortMatch;
    policy.egress.iter().flatten().any(|rule| {
        rule.peers.is_empty() && rule.ports.iter().any(|port| matches!(port.ports, PortMatch::Named(_)))
    })
}

fn map_name(direction: Direction, family: Family) -> Arc<str> {
    match direction {
        Direction::Ingress => format!("policy-ingress{}", family.digit()).into(),
        Direction::Egress => format!("policy-egress{}", family.digit()).into(),
    }
}

fn isolate(
    fragment: &mut Fragment,
    pod: &PodView,
    ip: IpAddr,
    policies: &[&PolicyView],
    direction: Direction,
) {
    let family = Family::of(ip);
    let rules = chain::rules(pod, policies, direction, family);
    let names: BTreeSet<String> = policies.iter().map(|policy| policy.key.to_string()).collect();
    let prefix = match direction {
        Direction::Ingress => "to-pod",
        Direction::Egress => "from-pod",
    };
    let content = format!("{}/{}", pod.key.namespace, rules.join("\n"));
    let hash = unique_name("", &content);
    let hash = hash.split('-').nth(1).unwrap_or_default();
    let chain = unique_name(
        &format!("{prefix}{}-{hash}", family.digit()),
        &names.iter().map(String::as_str).collect::<Vec<_>>().join("."),
    );
    fragment.chain(&chain, None, rules);
    fragment.entry(&map_name(direction, family), ip.to_string(), format!("jump {chain}"));
    fragment.element(&format!("policy-self{}", family.digit()).into(), format!("{ip} . {ip}"));
}

fn base() -> Fragment {
    let mut fragment = Fragment::default();
    let mut rules = vec![
        "ct state established,related accept".to_owned(),
        // Neighbour discovery between pods on one bridge passes here; without it nobody finds anybody.
        "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept"
            .to_owned(),
    ];
    for family in Family::ALL {
        let (ip, address) = match family {
            Family::V4 => ("ip", "ipv4_addr"),
            Family::V6 => ("ip6", "ipv6_addr"),
        };
        let own: Arc<str> = format!("policy-self{}", family.digit()).into();
        fragment.set(&own, format!("type {address} . {address};"));
        rules.push(format!("{ip} saddr . {ip} daddr @{own} accept"));
        for (direction, side) in [(Direction::Egress, "saddr"), (Direction::Ingress, "daddr")] {
            let map = map_name(direction, family);
            fragment.map(&map, format!("type {address} : verdict;"));
            rules.push(format!("{ip} {side} vmap @{map}"));
        }
    }
    fragment.chain(&POLICY_CHAIN.into(), Some(FORWARD), rules);
    fragment
}
