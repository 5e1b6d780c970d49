//! Host ports of pods: connections to a port of this machine go to the pod that asked for it. Pure.
//!
//! The table is small and is replaced as a whole. A pod's own ports win over services' node ports only where no service
//! has the port: services are looked at first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use crate::network::view::Family;

/// Family and name of the table.
pub const TABLE: &str = "inet quarterdeck-host-ports";
/// Just behind the service proxy's chains, so that its choice stands.
const DSTNAT: i32 = -95;
const SRCNAT: i32 = 105;

/// A transport protocol as nft spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's name; TCP where none is given.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    fn nft(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One host port of one pod, in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Only this address of the machine; `None` is every address.
    pub host: Option<IpAddr>,
    /// Transport.
    pub protocol: Protocol,
    /// Port of the machine.
    pub host_port: u16,
    /// The pod's address.
    pub pod: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

/// Removes the table, whether it is there or not.
pub fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// The whole table; only its removal where no pod has a host port. `bridge` is the pods' interface.
pub fn script(ports: &BTreeSet<HostPort>, bridge: &str) -> String {
    let mut out = removal();
    if ports.is_empty() {
        return out;
    }
    line(&mut out, format_args!("add table {TABLE}"));
    for (name, kind, priority) in
        [("prerouting", "nat", DSTNAT), ("output", "nat", DSTNAT), ("postrouting", "nat", SRCNAT)]
    {
        line(
            &mut out,
            format_args!("add chain {TABLE} {name} {{ type {kind} hook {name} priority {priority}; }}"),
        );
    }
    line(&mut out, format_args!("add chain {TABLE} input {{ type filter hook input priority 0; }}"));
    line(&mut out, format_args!("add chain {TABLE} dispatch"));
    for family in Family::ALL {
        of_family(&mut out, ports, family);
    }
    for hook in ["prerouting", "output"] {
        line(&mut out, format_args!("add rule {TABLE} {hook} fib daddr type local jump dispatch"));
    }
    // A loopback source cannot be answered from the pod's network.
    let loopback = "ct status dnat ip saddr 127.0.0.0/8 oifname != \"lo\" masquerade";
    line(&mut out, format_args!("add rule {TABLE} postrouting {loopback}"));
    // Loopback destinations are routable on the bridge for the sake of those answers only.
    let guard = format!("iifname \"{bridge}\" ip daddr 127.0.0.0/8 ct direction original drop");
    line(&mut out, format_args!("add rule {TABLE} input {guard}"));
    out
}

/// Maps and rules of one family. Of two pods that want the same port, the first in order gets it.
fn of_family(out: &mut String, ports: &BTreeSet<HostPort>, family: Family) {
    let (ip, address, digit) = match family {
        Family::V4 => ("ip", "ipv4_addr", 4),
        Family::V6 => ("ip6", "ipv6_addr", 6),
    };
    let mut exact = BTreeMap::new();
    let mut any = BTreeMap::new();
    let mut targets = BTreeSet::new();
    for port in ports.iter().filter(|port| Family::of(port.pod) == family) {
        let (protocol, number) = (port.protocol.nft(), port.host_port);
        let target = format!("{} . {}", port.pod, port.pod_port);
        targets.insert(format!("{0} . {0} . {protocol} . {1}", port.pod, port.pod_port));
        match port.host {
            Some(host) if Family::of(host) == family => {
                exact.entry(format!("{host} . {protocol} . {number}")).or_insert(target);
            }
            Some(_) => {}
            None => {
                any.entry(format!("{protocol} . {number}")).or_insert(target);
            }
        }
    }
    if targets.is_empty() {
        return;
    }
    let to = format!("{address} . inet_service");
    map(out, &format!("exact{digit}"), &format!("{address} . inet_proto . inet_service : {to}"), &exact);
    map(out, &format!("any{digit}"), &format!("inet_proto . inet_service : {to}"), &any);
    for (name, key) in [
        ("exact", format!("{ip} daddr . meta l4proto . th dport")),
        ("any", "meta l4proto . th dport".into()),
    ] {
        let rule = format!("dnat {ip} addr . port to {key} map @{name}{digit}");
        line(out, format_args!("add rule {TABLE} dispatch meta nfproto {} {rule}", nfproto(family)));
    }
    // A pod that reaches itself must see the machine as its peer.
    let list = targets.into_iter().collect::<Vec<_>>().join(", ");
    let hairpin =
        format!("ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport {{ {list} }} masquerade");
    line(out, format_args!("add rule {TABLE} postrouting {hairpin}"));
}

fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn map(out: &mut String, name: &str, kind: &str, elements: &BTreeMap<String, String>) {
    line(out, format_args!("add map {TABLE} {name} {{ type {kind}; }}"));
    if !elements.is_empty() {
        let list = elements.iter().map(|(key, value)| format!("{key} : {value}")).collect::<Vec<_>>();
        line(out, format_args!("add element {TABLE} {name} {{ {} }}", list.join(", ")));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn port(host: Option<&str>, protocol: Protocol, host_port: u16, pod: &str, pod_port: u16) -> HostPort {
        let ip = |text: &str| text.parse().expect("an address");
        HostPort { host: host.map(ip), protocol, host_port, pod: ip(pod), pod_port }
    }

    #[test]
    fn ports_become_maps() {
        let ports = BTreeSet::from([
            port(None, Protocol::Tcp, 8080, "10.1.0.5", 80),
            port(Some("127.0.0.1"), Protocol::Udp, 53, "10.1.0.6", 5353),
        ]);
        expect![[r#"
            add table inet quarterdeck-host-ports
            delete table inet quarterdeck-host-ports
            add table inet quarterdeck-host-ports
            add chain inet quarterdeck-host-ports prerouting { type nat hook prerouting priority -95; }
            add chain inet quarterdeck-host-ports output { type nat hook output priority -95; }
            add chain inet quarterdeck-host-ports postrouting { type nat hook postrouting priority 105; }
            add chain inet quarterdeck-host-ports input { type filter hook input priority 0; }
            add chain inet quarterdeck-host-ports dispatch
            add map inet quarterdeck-host-ports exact4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
            add element inet quarterdeck-host-ports exact4 { 127.0.0.1 . udp . 53 : 10.1.0.6 . 5353 }
            add map inet quarterdeck-host-ports any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
            add element inet quarterdeck-host-ports any4 { tcp . 8080 : 10.1.0.5 . 80 }
            add rule inet quarterdeck-host-ports dispatch meta nfproto ipv4 dnat ip addr . port to ip daddr . meta l4proto . th dport map @exact4
            add rule inet quarterdeck-host-ports dispatch meta nfproto ipv4 dnat ip addr . port to meta l4proto . th dport map @any4
            add rule inet quarterdeck-host-ports postrouting ct status dnat ip saddr . ip daddr . meta l4proto . th dport { 10.1.0.5 . 10.1.0.5 . tcp . 80, 10.1.0.6 . 10.1.0.6 . udp . 5353 } masquerade
            add rule inet quarterdeck-host-ports prerouting fib daddr type local jump dispatch
            add rule inet quarterdeck-host-ports output fib daddr type local jump dispatch
            add rule inet quarterdeck-host-ports postrouting ct status dnat ip saddr 127.0.0.0/8 oifname != "lo" masquerade
            add rule inet quarterdeck-host-ports input iifname "qd0" ip daddr 127.0.0.0/8 ct direction original drop
        "#]]
        .assert_eq(&script(&ports, "qd0"));
    }

    #[test]
    fn no_ports_leave_no_table() {
        assert_eq!(script(&BTreeSet::new(), "qd0"), removal());
    }
}
