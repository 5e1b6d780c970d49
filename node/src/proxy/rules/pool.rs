//! Chains and maps shared by all services: "one of N endpoints", and what external traffic passes first.

use std::sync::Arc;

use super::Settings;
use crate::network::{nft::Fragment, view::Family};

/// What the client's destination was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Front {
    /// An address of the service: keys are address, protocol and port.
    Address,
    /// A port of the node: keys are protocol and port.
    NodePort,
}

/// Which list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    /// For traffic policy "Cluster".
    Cluster,
    /// For traffic policy "Local".
    Local,
}

/// Identity of a shared chain; its fragment follows from the identity and the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// One of `count` endpoints.
    Pick {
        /// Address family.
        family: Family,
        /// Kind of destination.
        front: Front,
        /// Which list.
        list: List,
        /// Number of endpoints, at least one.
        count: usize,
    },
    /// Traffic from outside under policy "Cluster": masqueraded, because the endpoint may be on another node.
    External {
        /// Address family.
        family: Family,
        /// Kind of destination.
        front: Front,
        /// Number of endpoints.
        count: usize,
    },
    /// Traffic from outside under policy "Local": the source address stays, and clients on this node get any endpoint.
    ExternalLocal {
        /// Address family.
        family: Family,
        /// Kind of destination.
        front: Front,
        /// Number of endpoints in the cluster, zero or more.
        cluster: usize,
        /// Number of endpoints on this node, zero or more.
        local: usize,
    },
}

/// `ep4`, `lep4`, `npep4`, `nplep4` and the same with 6.
fn stem(family: Family, front: Front, list: List) -> String {
    let front = match front {
        Front::Address => "",
        Front::NodePort => "np",
    };
    let list = match list {
        List::Cluster => "ep",
        List::Local => "lep",
    };
    format!("{front}{list}{}", family.digit())
}

/// The map (and the chain that uses it) of endpoint number `index`.
pub fn endpoint_map(family: Family, front: Front, list: List, index: usize) -> String {
    format!("{}-{index}", stem(family, front, list))
}

impl Pool {
    /// The chain that services send traffic to.
    pub fn chain(&self) -> Arc<str> {
        let front = |front: &Front| match front {
            Front::Address => "ip",
            Front::NodePort => "np",
        };
        match self {
            Self::Pick { family, front, list, count: 1 } => endpoint_map(*family, *front, *list, 0).into(),
            Self::Pick { family, front, list, count } => {
                format!("{}-of-{count}", stem(*family, *front, *list)).into()
            }
            Self::External { family, front: f, count } => {
                format!("external{}-{}-{count}", family.digit(), front(f)).into()
            }
            Self::ExternalLocal { family, front: f, cluster, local } => {
                format!("external{}-{}-{cluster}-local-{local}", family.digit(), front(f)).into()
            }
        }
    }

    /// The pools whose chains this one's rules name.
    pub fn needs(&self) -> Vec<Self> {
        let pick = |family, front, list, count| {
            (count > 0).then_some(Self::Pick { family, front, list, count }).into_iter()
        };
        match *self {
            Self::Pick { .. } => Vec::new(),
            Self::External { family, front, count } => pick(family, front, List::Cluster, count).collect(),
            Self::ExternalLocal { family, front, cluster, local } => {
                pick(family, front, List::Cluster, cluster)
                    .chain(pick(family, front, List::Local, local))
                    .collect()
            }
        }
    }

    /// The objects of this pool, without those of [`Pool::needs`].
    pub fn fragment(&self, settings: &Settings) -> Fragment {
        let mut fragment = Fragment::default();
        match *self {
            Self::Pick { family, front, list, count } => {
                pick(&mut fragment, family, front, list, count);
                if count > 1 {
                    let goto = |k| format!("{k} : goto {}", endpoint_map(family, front, list, k));
                    let all = (0..count).map(goto).collect::<Vec<_>>().join(", ");
                    let rule = format!("numgen random mod {count} vmap {{ {all} }}");
                    fragment.chain(&self.chain(), None, vec![rule]);
                }
            }
            Self::External { family, front, count } => {
                let target = Self::Pick { family, front, list: List::Cluster, count }.chain();
                fragment.chain(&self.chain(), None, external_rules(settings, &target));
            }
            Self::ExternalLocal { family, front, cluster, local } => {
                let chain =
                    |list, count| (count > 0).then(|| Self::Pick { family, front, list, count }.chain());
                let rules = external_local_rules(
                    settings,
                    family,
                    chain(List::Cluster, cluster).as_deref(),
                    chain(List::Local, local).as_deref(),
                );
                fragment.chain(&self.chain(), None, rules);
            }
        }
        fragment
    }
}

fn pick(fragment: &mut Fragment, family: Family, front: Front, list: List, count: usize) {
    let (ip, address) = match family {
        Family::V4 => ("ip", "ipv4_addr"),
        Family::V6 => ("ip6", "ipv6_addr"),
    };
    let (key_type, key) = match front {
        Front::Address => (
            format!("{address} . inet_proto . inet_service"),
            format!("{ip} daddr . meta l4proto . th dport"),
        ),
        Front::NodePort => ("inet_proto . inet_service".to_owned(), "meta l4proto . th dport".to_owned()),
    };
    for index in 0..count {
        let name: Arc<str> = endpoint_map(family, front, list, index).into();
        fragment.map(&name, format!("type {key_type} : {address} . inet_service;"));
        fragment.chain(&name, None, vec![format!("dnat {ip} addr . port to {key} map @{name}")]);
    }
}

/// Rules for outside traffic that may leave this node again.
pub fn external_rules(settings: &Settings, target: &str) -> Vec<String> {
    vec![settings.mark_for_masquerade(), format!("goto {target}")]
}

/// Rules for outside traffic that stays on this node. Pods and processes of this node count as inside: they get the
/// cluster's endpoints, as if they had gone out to the load balancer and come back.
pub fn external_local_rules(
    settings: &Settings,
    family: Family,
    cluster: Option<&str>,
    local: Option<&str>,
) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(cluster) = cluster {
        if let Some(from_pods) = settings.local.matches(family) {
            rules.push(format!("{from_pods} goto {cluster}"));
        }
        // The service address is local too, so it may be the source; replies have to come back here.
        rules.push(format!("fib saddr type local {}", settings.mark_for_masquerade()));
        rules.push(format!("fib saddr type local goto {cluster}"));
    }
    rules.extend(local.map(|local| format!("goto {local}")));
    rules
}
