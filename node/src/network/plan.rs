//! Which routes lead to the pods of other nodes. Pure.
//!
//! A node on a segment of ours is the next hop itself. Any other is reached through the overlay device: its pod range
//! goes to a next hop that stands for the node (the first address of the range), whose hardware address follows from
//! the node's name, and frames to that hardware address go to the node's own address. So every node computes the
//! same entries without asking anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::view::NodeView;

/// A hardware address.
pub type Mac = [u8; 6];

/// One of this machine's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's number.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest packet.
    pub mtu: u32,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// Where a route leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// An interface by number.
    Link(u32),
    /// The overlay.
    Overlay,
}

/// A route to a pod range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The range.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
    /// Where it leaves.
    pub device: Device,
}

/// The overlay device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// This node's address that carries the packets.
    pub underlay: IpAddr,
    /// Number of the interface with that address.
    pub link: u32,
    /// Largest packet inside.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Mac,
    /// Addresses: the first one of each pod range, so that this machine has a source address for remote pods.
    pub addresses: Vec<IpAddr>,
}

/// Everything that should be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Routes by range.
    pub routes: BTreeSet<Route>,
    /// Next hops on the overlay and their hardware addresses.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Hardware addresses on the overlay and the nodes behind them.
    pub forwards: BTreeMap<Mac, IpAddr>,
    /// The overlay device, when any route needs it.
    pub overlay: Option<Overlay>,
}

/// Bytes that VXLAN adds: outer IP and UDP headers, its own header and the inner Ethernet header.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;
/// When the interface with the node's address is not found.
const MTU_DEFAULT: u32 = 1_500;
/// The smallest packet that IPv6 has to carry.
const MTU_MIN: u32 = 1_280;

/// The hardware address of a node on the overlay: locally administered, from the node's name.
pub fn mac(node_name: &str) -> Mac {
    let digest = Sha256::digest(node_name.as_bytes());
    [0x0a, digest[0], digest[1], digest[2], digest[3], digest[4]]
}

/// The largest packet that pods may send: what still fits through the overlay.
pub fn pod_mtu(me: &NodeView, interfaces: &[Interface]) -> u32 {
    let address = me.internal_ips.first();
    let link = address.and_then(|ip| holder(*ip, interfaces));
    let overhead = if address.is_some_and(IpAddr::is_ipv6) { OVERHEAD_V6 } else { OVERHEAD_V4 };
    link.map_or(MTU_DEFAULT, |link| link.mtu).saturating_sub(overhead).max(MTU_MIN)
}

/// Computes what should be in the kernel of node `me`.
pub fn plan<'a>(
    me: &NodeView,
    others: impl IntoIterator<Item = &'a NodeView>,
    interfaces: &[Interface],
) -> Wanted {
    let mut wanted = Wanted::default();
    for other in others.into_iter().filter(|other| other.name != me.name) {
        for range in other.pod_cidrs.iter().map(IpNet::trunc) {
            match direct(other, range, interfaces) {
                Some(route) => {
                    wanted.routes.insert(route);
                }
                None => through_overlay(&mut wanted, me, other, range),
            }
        }
    }
    if !wanted.forwards.is_empty() {
        wanted.overlay = overlay(me, interfaces);
    }
    if wanted.overlay.is_none() {
        wanted.routes.retain(|route| route.device != Device::Overlay);
        wanted.neighbours.clear();
        wanted.forwards.clear();
    }
    wanted
}

fn direct(other: &NodeView, range: IpNet, interfaces: &[Interface]) -> Option<Route> {
    let via = other.internal_ip_like(range.addr())?;
    let shares = |link: &&Interface| {
        link.addresses
            .iter()
            .any(|net| net.contains(&via) && net.prefix_len() < net.max_prefix_len() && net.addr() != via)
    };
    let link = interfaces.iter().find(shares)?;
    Some(Route { to: range, via, device: Device::Link(link.index) })
}

fn through_overlay(wanted: &mut Wanted, me: &NodeView, other: &NodeView, range: IpNet) {
    let Some(underlay) = me.internal_ips.first().and_then(|own| other.internal_ip_like(*own)) else { return };
    let (hop, mac) = (range.network(), mac(&other.name));
    wanted.routes.insert(Route { to: range, via: hop, device: Device::Overlay });
    wanted.neighbours.insert(hop, mac);
    wanted.forwards.insert(mac, underlay);
}

fn holder(ip: IpAddr, interfaces: &[Interface]) -> Option<&Interface> {
    interfaces.iter().find(|link| link.addresses.iter().any(|net| net.addr() == ip))
}

fn overlay(me: &NodeView, interfaces: &[Interface]) -> Option<Overlay> {
    let underlay = *me.internal_ips.first()?;
    Some(Overlay {
        underlay,
        link: holder(underlay, interfaces)?.index,
        mtu: pod_mtu(me, interfaces),
        mac: mac(&me.name),
        addresses: me.pod_cidrs.iter().map(IpNet::network).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ips: &[&str], ranges: &[&str]) -> NodeView {
        NodeView {
            name: name.into(),
            zone: "".into(),
            internal_ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            pod_cidrs: ranges.iter().map(|range| range.parse().expect("a range")).collect(),
            leaving: false,
        }
    }

    fn interfaces() -> Vec<Interface> {
        let link = |index, name: &str, addresses: &[&str]| Interface {
            index,
            name: name.into(),
            mtu: 1_500,
            addresses: addresses.iter().map(|net| net.parse().expect("a range")).collect(),
        };
        vec![link(1, "lo", &["127.0.0.1/8"]), link(2, "eth0", &["192.168.1.1/24", "fd00:1::1/64"])]
    }

    fn show(wanted: &Wanted) -> Vec<String> {
        wanted
            .routes
            .iter()
            .map(|route| format!("{} via {} {:?}", route.to, route.via, route.device))
            .collect()
    }

    #[test]
    fn the_same_segment_is_direct_and_elsewhere_is_vxlan() {
        let me = node("a", &["192.168.1.1", "fd00:1::1"], &["10.1.0.0/24", "fd10:0::/64"]);
        let near = node("b", &["192.168.1.2", "fd00:1::2"], &["10.1.1.0/24", "fd10:1::/64"]);
        let far = node("c", &["192.168.2.2"], &["10.1.2.0/24"]);
        let wanted = plan(&me, [&me, &near, &far], &interfaces());
        assert_eq!(
            show(&wanted),
            [
                "10.1.1.0/24 via 192.168.1.2 Link(2)",
                "10.1.2.0/24 via 10.1.2.0 Overlay",
                "fd10:1::/64 via fd00:1::2 Link(2)",
            ]
        );
        assert_eq!(wanted.forwards, BTreeMap::from([(mac("c"), "192.168.2.2".parse().expect("ip"))]));
        let overlay = wanted.overlay.expect("a far node needs it");
        assert_eq!((overlay.link, overlay.mtu), (2, 1_450));
        assert_eq!(
            overlay.addresses,
            ["10.1.0.0".parse::<IpAddr>().expect("ip"), "fd10::".parse().expect("ip")]
        );
    }

    #[test]
    fn only_near_nodes_need_no_overlay_and_nodes_without_range_nothing() {
        let me = node("a", &["192.168.1.1"], &["10.1.0.0/24"]);
        let near = node("b", &["192.168.1.2"], &["10.1.1.0/24"]);
        assert_eq!(plan(&me, [&near], &interfaces()).overlay, None);
        assert_eq!(plan(&me, [&node("c", &["192.168.2.2"], &[])], &interfaces()), Wanted::default());
        // Without an address of its own this node cannot send; half a set of entries would be worse than none.
        let lost = node("a", &["203.0.113.9"], &["10.1.0.0/24"]);
        assert_eq!(
            plan(&lost, [&node("c", &["192.168.2.2"], &["10.1.2.0/24"])], &interfaces()),
            Wanted::default()
        );
    }

    #[test]
    fn hardware_addresses_are_local_unicast_and_differ() {
        assert_eq!(mac("a")[0] & 0b11, 0b10);
        assert_ne!(mac("a"), mac("b"));
    }
}
