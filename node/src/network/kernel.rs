//! Reads and changes interfaces, routes, neighbours and forwarding entries over rtnetlink.

use std::{io, net::IpAddr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder, new_connection,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};
use tokio::task::JoinHandle;

use super::{
    diff::{Actual, Command},
    plan::{Device, Interface, Mac, Overlay, Route},
};

/// Name of the overlay device.
pub const OVERLAY: &str = "qd-overlay";
/// Network number on the wire.
const VNI: u32 = 1;
/// Marks our routes; unassigned in the kernel's list and in those of the usual routing daemons.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(157);

/// Why the kernel could not be read or changed. Needs CAP_NET_ADMIN.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request failed.
    #[error("the kernel refused to {doing}: {source}")]
    Refused {
        /// What was asked.
        doing: String,
        /// Cause.
        source: rtnetlink::Error,
    },
}

fn refused(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    move |source| KernelError::Refused { doing: doing.into(), source }
}

/// The routing side of the kernel, in the network namespace of the thread that opened it.
pub struct Kernel {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kernel {
    /// Opens a socket.
    pub fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All interfaces with their addresses.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, KernelError> {
        let mut found: Vec<Interface> = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(refused("list interfaces"))? {
            let mut interface =
                Interface { index: link.header.index, name: String::new(), mtu: 0, addresses: Vec::new() };
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => interface.name = name,
                    LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                    _ => {}
                }
            }
            found.push(interface);
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(address) = addresses.try_next().await.map_err(refused("list addresses"))? {
            let ip = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            let net = ip.and_then(|ip| IpNet::new(ip, address.header.prefix_len).ok());
            if let Some(interface) = found.iter_mut().find(|link| link.index == address.header.index) {
                interface.addresses.extend(net);
            }
        }
        Ok(found)
    }

    /// What the kernel holds of ours. `overlay` is the number of the overlay device.
    pub async fn actual(&self, overlay: Option<u32>) -> Result<Actual, KernelError> {
        let mut actual = Actual::default();
        for message in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut routes = self.handle.route().get(message).execute();
            while let Some(message) = routes.try_next().await.map_err(refused("list routes"))? {
                actual.routes.extend(our_route(&message, overlay));
            }
        }
        let Some(overlay) = overlay else { return Ok(actual) };
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let mut entries = self.handle.neighbours().get().set_address_family(family).execute();
            while let Some(message) = entries.try_next().await.map_err(refused("list neighbours"))? {
                if message.header.ifindex == overlay {
                    take_neighbour(&mut actual, &message);
                }
            }
        }
        Ok(actual)
    }

    /// True when a device carries packets as the wanted overlay would: with another address, interface or port
    /// underneath it would lose all of them, and none of this changes in place.
    pub async fn is_overlay(&self, index: u32, wanted: &Overlay, port: u16) -> Result<bool, KernelError> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(refused(format!("look at {OVERLAY}")))?;
        let agrees = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(mtu) => *mtu == wanted.mtu,
            LinkAttribute::Address(mac) => *mac == wanted.mac,
            LinkAttribute::LinkInfo(infos) => infos.iter().all(|info| match info {
                LinkInfo::Data(InfoData::Vxlan(facts)) => {
                    facts.iter().all(|fact| carries(fact, wanted, port))
                }
                _ => true,
            }),
            _ => true,
        };
        Ok(link.is_some_and(|link| link.attributes.iter().all(agrees)))
    }

    /// Makes sure that the overlay device is as it should be; returns its number.
    pub async fn ensure_overlay(
        &self,
        wanted: &Overlay,
        port: u16,
        interfaces: &[Interface],
    ) -> Result<u32, KernelError> {
        let known = interfaces.iter().find(|link| link.name == OVERLAY);
        let index = match known {
            Some(link) => link.index,
            None => self.add_overlay(wanted, port).await?,
        };
        let has = |ip: &IpAddr| known.is_some_and(|link| link.addresses.iter().any(|net| net.addr() == *ip));
        for ip in wanted.addresses.iter().filter(|ip| !has(ip)) {
            let prefix = if ip.is_ipv4() { 32 } else { 128 };
            let added = self.handle.address().add(index, *ip, prefix).replace().execute().await;
            added.map_err(refused(format!("add {ip} to {OVERLAY}")))?;
        }
        Ok(index)
    }

    async fn add_overlay(&self, wanted: &Overlay, port: u16) -> Result<u32, KernelError> {
        let builder = LinkVxlan::new(OVERLAY, VNI).port(port).dev(wanted.link).learning(false);
        let builder = match wanted.underlay {
            IpAddr::V4(ip) => builder.local(ip),
            IpAddr::V6(ip) => builder.local6(ip),
        };
        let message = builder.address(wanted.mac.to_vec()).mtu(wanted.mtu).up().build();
        self.handle.link().add(message).execute().await.map_err(refused(format!("create {OVERLAY}")))?;
        let mut links = self.handle.link().get().match_name(OVERLAY.to_owned()).execute();
        let link = links.try_next().await.map_err(refused(format!("find {OVERLAY}")))?;
        Ok(link.map_or(0, |link| link.header.index))
    }

    /// Removes an interface.
    pub async fn delete_link(&self, index: u32) -> Result<(), KernelError> {
        self.handle.link().del(index).execute().await.map_err(refused("delete an interface"))
    }

    /// Brings an interface up.
    pub async fn set_up(&self, index: u32) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(refused("bring an interface up"))
    }

    /// Carries out one command.
    pub async fn run(&self, command: &Command, overlay: Option<u32>) -> Result<(), KernelError> {
        let doing = || format!("carry out {command:?}");
        let index = overlay.unwrap_or_default();
        let done = match command {
            Command::PutRoute(route) => {
                let Some(message) = route_message(route, overlay) else { return Ok(()) };
                self.handle.route().add(message).replace().execute().await
            }
            Command::DeleteRoute(route) => {
                let Some(message) = route_message(route, overlay) else { return Ok(()) };
                self.handle.route().del(message).execute().await
            }
            Command::PutNeighbour(ip, mac) => {
                self.handle.neighbours().add(index, *ip).link_layer_address(mac).replace().execute().await
            }
            Command::PutForward(mac, ip) => {
                let request = self.handle.neighbours().add_bridge(index, mac).destination(*ip);
                request.flags(NeighbourFlags::Own).replace().execute().await
            }
            Command::DeleteNeighbour(ip, mac) => {
                let mut request = self.handle.neighbours().add(index, *ip).link_layer_address(mac);
                self.handle.neighbours().del(request.message_mut().clone()).execute().await
            }
            Command::DeleteForward(mac, ip) => {
                let request = self.handle.neighbours().add_bridge(index, mac).destination(*ip);
                let mut request = request.flags(NeighbourFlags::Own);
                self.handle.neighbours().del(request.message_mut().clone()).execute().await
            }
        };
        done.map_err(refused(doing()))
    }
}

fn carries(fact: &InfoVxlan, wanted: &Overlay, port: u16) -> bool {
    match fact {
        InfoVxlan::Link(link) => *link == wanted.link,
        InfoVxlan::Local(ip) => wanted.underlay == *ip,
        InfoVxlan::Local6(ip) => wanted.underlay == *ip,
        InfoVxlan::Port(on) => *on == port,
        _ => true,
    }
}

fn route_message(route: &Route, overlay: Option<u32>) -> Option<RouteMessage> {
    let (index, onlink) = match route.device {
        Device::Link(index) => (index, false),
        Device::Overlay => (overlay?, true),
    };
    let builder =
        RouteMessageBuilder::<IpAddr>::new().destination_prefix(route.to.addr(), route.to.prefix_len());
    let builder = builder.ok()?.gateway(route.via).ok()?.output_interface(index).protocol(PROTOCOL);
    Some(if onlink { builder.onlink().build() } else { builder.build() })
}

fn our_route(message: &RouteMessage, overlay: Option<u32>) -> Option<Route> {
    if message.header.protocol != PROTOCOL {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut to, mut via, mut index) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(number) => index = Some(*number),
            _ => {}
        }
    }
    let index = index?;
    let device = if Some(index) == overlay { Device::Overlay } else { Device::Link(index) };
    Some(Route { to: IpNet::new(to?, message.header.destination_prefix_length).ok()?, via: via?, device })
}

fn take_neighbour(actual: &mut Actual, message: &NeighbourMessage) {
    if message.header.state != NeighbourState::Permanent {
        return;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            // The destination of a forwarding entry carries no family of its own.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => ip = from_bytes(bytes),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let (Some(ip), Some(mac)) = (ip, mac) else { return };
    match message.header.family {
        AddressFamily::Bridge => actual.forwards.insert(mac, ip).map(|_| ()),
        _ => actual.neighbours.insert(ip, mac).map(|_| ()),
    };
}

fn from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}
