//! Which endpoints of a service port take traffic from this machine.
//!
//! The rules are upstream's: ready endpoints first, by topology hints where every ready endpoint carries them; else
//! those that are terminating but still serve. "Cluster" and "Local" traffic are decided apart.

use std::net::{IpAddr, SocketAddr};

use crate::network::view::{EndpointView, Family, PortView, SliceView};

/// Where this machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: Box<str>,
    /// Its topology zone, empty when unknown.
    pub zone: Box<str>,
}

/// An endpoint of one service port.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    /// Address and port that take the traffic.
    pub at: SocketAddr,
    /// Runs on this machine.
    pub local: bool,
    view: &'a EndpointView,
}

impl Backend<'_> {
    fn is_ready(&self) -> bool {
        self.view.ready
    }

    fn is_draining(&self) -> bool {
        self.view.serving && self.view.terminating
    }

    /// Still answers, terminating or not.
    pub fn is_serving(&self) -> bool {
        self.view.serving
    }
}

/// All endpoints of a service port in one family, each address once, in address order.
pub fn backends<'a>(
    slices: impl IntoIterator<Item = &'a SliceView>,
    port: &PortView,
    family: Family,
    place: &Place,
) -> Vec<Backend<'a>> {
    let mut found: Vec<Backend<'a>> = Vec::new();
    for slice in slices {
        let matching = slice
            .ports
            .iter()
            .filter(|candidate| candidate.name == port.name && candidate.protocol == port.protocol);
        for slice_port in matching {
            let endpoints = slice.endpoints.iter().filter(|view| Family::of(view.ip) == family);
            found.extend(endpoints.filter(|view| usable(view.ip)).map(|view| Backend {
                at: SocketAddr::new(view.ip, slice_port.port),
                local: view.node.as_deref() == Some(&*place.node),
                view,
            }));
        }
    }
    // While an endpoint moves between slices it stands in two of them; the better state counts.
    found.sort_by_key(|backend| (backend.at, !backend.is_ready(), !backend.is_serving()));
    found.dedup_by_key(|backend| backend.at);
    found
}

/// Addresses that no packet may be sent to: the API refuses them, old objects may hold them.
fn usable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

/// The endpoints of a service port by traffic policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For "Cluster" traffic; empty when the port has none of it.
    pub cluster: Vec<SocketAddr>,
    /// For "Local" traffic; empty when the port has none of it.
    pub local: Vec<SocketAddr>,
    /// Endpoints of this machine among the two lists above.
    pub on_this_node: Vec<SocketAddr>,
    /// Some endpoint somewhere can take traffic.
    pub any: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Everywhere,
    SameNode,
    SameZone,
}

/// Sorts the endpoints of a port by the traffic policies it uses.
pub fn choose(all: &[Backend<'_>], uses_cluster: bool, uses_local: bool, place: &Place) -> Choice {
    let mut choice = Choice::default();
    let mut mine = |picked: &[Backend<'_>]| {
        choice.on_this_node.extend(picked.iter().filter(|backend| backend.local).map(|backend| backend.at));
    };
    if uses_cluster {
        let topology = topology(all, place);
        let mut picked = pick(all, |b| b.is_ready() && in_reach(b, topology, place));
        if picked.is_empty() {
            picked = pick(all, Backend::is_draining);
        }
        mine(&picked);
        choice.cluster = picked.iter().map(|backend| backend.at).collect();
        choice.any = !picked.is_empty();
    }
    if uses_local {
        choice.any |= all.iter().any(|b| b.is_ready() || b.is_draining());
        let mut picked = pick(all, |b| b.local && b.is_ready());
        if picked.is_empty() {
            picked = pick(all, |b| b.local && b.is_draining());
        }
        mine(&picked);
        choice.local = picked.iter().map(|backend| backend.at).collect();
    }
    choice.on_this_node.sort_unstable();
    choice.on_this_node.dedup();
    choice
}

fn pick<'a>(all: &[Backend<'a>], wanted: impl Fn(&Backend<'a>) -> bool) -> Vec<Backend<'a>> {
    all.iter().filter(|backend| wanted(backend)).copied().collect()
}

fn hinted(hints: &[Box<str>], name: &str) -> bool {
    hints.iter().any(|hint| **hint == *name)
}

/// Hints count only when every ready endpoint has one and at least one points here.
fn topology(all: &[Backend<'_>], place: &Place) -> Topology {
    let hinted_here = |hints: fn(&EndpointView) -> &[Box<str>], name: &str| {
        let mut ready = all.iter().filter(|b| b.is_ready()).peekable();
        let mut here = false;
        ready.peek().is_some()
            && ready.all(|b| {
                let hints = hints(b.view);
                here |= hinted(hints, name);
                !hints.is_empty()
            })
            && here
    };
    if hinted_here(|view| &view.node_hints, &place.node) {
        return Topology::SameNode;
    }
    if hinted_here(|view| &view.zone_hints, &place.zone) {
        return Topology::SameZone;
    }
    Topology::Everywhere
}

fn in_reach(backend: &Backend<'_>, topology: Topology, place: &Place) -> bool {
    match topology {
        Topology::Everywhere => true,
        Topology::SameNode => hinted(&backend.view.node_hints, &place.node),
        Topology::SameZone => hinted(&backend.view.zone_hints, &place.zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::view::{Key, Protocol, SlicePort};

    /// `1` ready on this node, `r` ready elsewhere, `T`/`t` terminating and serving here/elsewhere, `x` gone;
    /// after a colon hints: `za` for zone a, `n1` for this node.
    fn slice(endpoints: &[&str]) -> SliceView {
        let view = |(index, text): (usize, &&str)| {
            let (state, hints) = text.split_once(':').unwrap_or((text, ""));
            let with = |prefix: char| {
                let hints = hints.split(',').filter_map(|hint| hint.strip_prefix(prefix));
                hints.map(|hint| hint.into()).collect::<Box<[Box<str>]>>()
            };
            let here = matches!(state, "1" | "T");
            EndpointView {
                ip: IpAddr::from([10, 0, 0, u8::try_from(index).expect("few") + 1]),
                node: Some(if here { "1" } else { "2" }.into()),
                hostname: None,
                ready: matches!(state, "1" | "r"),
                serving: state != "x",
                terminating: matches!(state, "T" | "t" | "x"),
                zone_hints: with('z'),
                node_hints: with('n'),
            }
        };
        SliceView {
            key: Key::new("ns", "s"),
            service: "svc".into(),
            ports: vec![SlicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: endpoints.iter().enumerate().map(view).collect(),
            triggered: None,
            not_proxied: false,
        }
    }

    fn check(endpoints: &[&str], uses: (bool, bool), expected: (&[u8], &[u8], &[u8], bool)) {
        let slice = slice(endpoints);
        let port = PortView { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let place = Place { node: "1".into(), zone: "a".into() };
        let all = backends([&slice], &port, Family::V4, &place);
        let choice = choose(&all, uses.0, uses.1, &place);
        let last = |list: &[SocketAddr]| {
            let octet = |at: &SocketAddr| match at.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            };
            list.iter().map(octet).collect::<Vec<_>>()
        };
        let got = (last(&choice.cluster), last(&choice.local), last(&choice.on_this_node), choice.any);
        let expected = (expected.0.to_vec(), expected.1.to_vec(), expected.2.to_vec(), expected.3);
        assert_eq!(got, expected, "{endpoints:?} {uses:?}");
    }

    #[test]
    fn traffic_policies_and_terminating_fallback() {
        let (cluster, local, both) = ((true, false), (false, true), (true, true));
        check(&[], both, (&[], &[], &[], false));
        check(&["1", "r", "x"], cluster, (&[1, 2], &[], &[1], true));
        check(&["1", "r"], local, (&[], &[1], &[1], true));
        check(&["r", "r"], local, (&[], &[], &[], true));
        check(&["r", "T"], both, (&[1], &[2], &[2], true));
        check(&["t", "T"], cluster, (&[1, 2], &[], &[2], true));
        check(&["x", "x"], both, (&[], &[], &[], false));
        check(&["1", "T"], local, (&[], &[1], &[1], true));
    }

    #[test]
    fn topology_hints_count_only_when_complete_and_pointing_here() {
        let cluster = (true, false);
        check(&["1:za", "r:zb"], cluster, (&[1], &[], &[1], true));
        check(&["1:za", "r"], cluster, (&[1, 2], &[], &[1], true));
        check(&["1:zb", "r:zb"], cluster, (&[1, 2], &[], &[1], true));
        check(&["r:n1,zb", "r:n2,za"], cluster, (&[1], &[], &[], true));
        check(&["r:n3,zb", "r:n2,za"], cluster, (&[2], &[], &[], true));
        // A terminating endpoint carries no weight in the decision about hints.
        check(&["1:za", "t"], cluster, (&[1], &[], &[1], true));
        // Local traffic ignores topology.
        check(&["1:zb", "r:za"], (true, true), (&[2], &[1], &[1], true));
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once_and_ready_wins() {
        let (first, second) = (slice(&["x"]), slice(&["1"]));
        let port = PortView { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
        let place = Place { node: "1".into(), zone: "".into() };
        let all = backends([&first, &second], &port, Family::V4, &place);
        assert_eq!(all.len(), 1);
        assert!(all[0].is_ready() && all[0].local);
    }
}
