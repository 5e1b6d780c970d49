//! The fixed chains, sets and maps of the table.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::network::{
    nft::{Fragment, Hook},
    view::Family,
};

/// How traffic from this node's own pods is told from other traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalDetector {
    /// It is not: cluster addresses are never masqueraded.
    #[default]
    Unknown,
    /// By source address.
    Cidrs(Vec<IpNet>),
    /// By the bridge it enters through.
    Bridge(String),
    /// By the prefix of the interface it enters through.
    InterfacePrefix(String),
}

impl LocalDetector {
    /// The match for traffic from local pods, when it can be told.
    pub fn matches(&self, family: Family) -> Option<String> {
        self.expression(family, "")
    }

    /// The match for all other traffic.
    pub fn differs(&self, family: Family) -> Option<String> {
        self.expression(family, "!= ")
    }

    fn expression(&self, family: Family, not: &str) -> Option<String> {
        match self {
            Self::Unknown => None,
            Self::Bridge(name) => Some(format!("iifname {not}\"{name}\"")),
            Self::InterfacePrefix(prefix) => Some(format!("iifname {not}\"{prefix}*\"")),
            Self::Cidrs(cidrs) => {
                let of_family = cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family);
                let list = of_family.map(|cidr| cidr.trunc().to_string()).collect::<Vec<_>>();
                let list = if list.len() > 1 {
                    format!("{{ {} }}", list.join(", "))
                } else {
                    list.into_iter().next()?
                };
                Some(format!("{} saddr {not}{list}", ip(family)))
            }
        }
    }
}

/// What the rules depend on besides services and endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bit of the packet mark that asks for masquerading, 0 to 31.
    pub masquerade_bit: u8,
    /// Masquerade everything sent to a cluster address.
    pub masquerade_all: bool,
    /// What a local pod is.
    pub local: LocalDetector,
    /// Addresses that answer on node ports; `None` means every local address but loopback.
    pub node_port_ips: Option<Vec<IpAddr>>,
    /// This node's addresses, for load balancer source ranges.
    pub node_ips: Vec<IpAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            masquerade_bit: 14,
            masquerade_all: false,
            local: LocalDetector::Unknown,
            node_port_ips: None,
            node_ips: Vec::new(),
        }
    }
}

impl Settings {
    fn mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    /// The statement that asks for masquerading.
    pub fn mark_for_masquerade(&self) -> String {
        format!("meta mark set meta mark or {:#010x}", self.mark())
    }
}

/// nft's name of a family's header.
pub fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const FILTER: i32 = 0;

/// The base chains: name, kind, hook, priority, rules. Source ranges are checked before the destination is rewritten;
/// missing endpoints in `input`, `forward` and `output`, where every kernel can reject.
const BASE_CHAINS: [(&str, &str, &str, i32, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "filter",
        "prerouting",
        DSTNAT - 10,
        &["ct state new jump firewall-check"],
    ),
    ("filter-output-pre-dnat", "filter", "output", DSTNAT - 10, &["ct state new jump firewall-check"]),
    (
        "filter-input",
        "filter",
        "input",
        FILTER,
        &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
    ),
    (
        "filter-forward",
        "filter",
        "forward",
        FILTER,
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    (
        "filter-output",
        "filter",
        "output",
        FILTER,
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    ("nat-prerouting", "nat", "prerouting", DSTNAT, &["jump services"]),
    ("nat-output", "nat", "output", DSTNAT, &["jump services"]),
    ("nat-postrouting", "nat", "postrouting", SRCNAT, &["jump masquerading"]),
];

/// Per-family sets and maps: name without the family's digit, kind, type.
const TABLES: [(&str, &str, &str); 7] = [
    ("cluster-ips", "set", "ADDR"),
    ("service-ips", "map", "ADDR . inet_proto . inet_service : verdict"),
    ("service-nodeports", "map", "inet_proto . inet_service : verdict"),
    ("no-endpoint-services", "map", "ADDR . inet_proto . inet_service : verdict"),
    ("no-endpoint-nodeports", "map", "inet_proto . inet_service : verdict"),
    ("firewall-ips", "map", "ADDR . inet_proto . inet_service : verdict"),
    ("hairpin", "set", "ADDR . ADDR . inet_proto . inet_service"),
];

/// The chain that answers "connection refused" for services without endpoints.
pub const REJECT_CHAIN: &str = "reject-chain";

/// A TCP client on this machine may miss an ICMP error while it holds its own socket, and then waits a second; a reset
/// it cannot miss.
const REJECT_RULES: [&str; 2] = ["meta l4proto tcp reject with tcp reset", "reject"];

/// Everything that stands in the table before the first service.
pub fn base(settings: &Settings) -> Fragment {
    let mut fragment = Fragment::default();
    for (name, kind, hook, priority, rules) in BASE_CHAINS {
        let hook = Hook { kind, hook, priority };
        fragment.chain(&name.into(), Some(hook), rules.iter().map(|rule| (*rule).to_owned()).collect());
    }
    fragment.chain(&REJECT_CHAIN.into(), None, REJECT_RULES.map(str::to_owned).into());
    for family in Family::ALL {
        for (name, kind, spec) in TABLES {
            let name: Arc<str> = format!("{name}{}", family.digit()).into();
            let spec = format!("type {};", spec.replace("ADDR", address(family)));
            if kind == "map" { fragment.map(&name, spec) } else { fragment.set(&name, spec) }
        }
        node_port_ips(&mut fragment, settings, family);
    }
    let both = |rules: fn(&Settings, Family) -> Vec<String>| {
        Family::ALL.into_iter().flat_map(|family| rules(settings, family)).collect::<Vec<_>>()
    };
    fragment.chain(&"services".into(), None, both(dispatch));
    fragment.chain(&"firewall-check".into(), None, both(firewall_check));
    fragment.chain(&"service-endpoints-check".into(), None, both(endpoints_check));
    fragment.chain(&"nodeport-endpoints-check".into(), None, both(node_port_check));
    fragment.chain(&"cluster-ips-check".into(), None, both(cluster_ips_check));
    let mut masquerading = vec![unmark_and_masquerade(settings)];
    masquerading.extend(both(hairpin));
    fragment.chain(&"masquerading".into(), None, masquerading);
    fragment
}

fn node_port_ips(fragment: &mut Fragment, settings: &Settings, family: Family) {
    let Some(ips) = &settings.node_port_ips else { return };
    let name: Arc<str> = format!("nodeport-ips{}", family.digit()).into();
    fragment.set(&name, format!("type {};", address(family)));
    // Loopback is left out: a rewritten packet from a loopback source could not be routed.
    for address in ips.iter().filter(|address| Family::of(**address) == family && !address.is_loopback()) {
        fragment.element(&name, address.to_string());
    }
}

fn unmark_and_masquerade(settings: &Settings) -> String {
    let mark = settings.mark();
    format!(
        "meta mark and {mark:#010x} != 0 meta mark set meta mark xor {mark:#010x} masquerade fully-random"
    )
}

/// A pod that reaches itself through a service must see the node as its peer, or it would answer itself directly.
fn hairpin(_: &Settings, family: Family) -> Vec<String> {
    let (ip, digit) = (ip(family), family.digit());
    vec![format!(
        "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin{digit} masquerade fully-random"
    )]
}

fn dispatch(settings: &Settings, family: Family) -> Vec<String> {
    let (ip, digit) = (ip(family), family.digit());
    let mark = settings.mark_for_masquerade();
    let mut rules = Vec::new();
    if settings.masquerade_all {
        rules.push(format!("{ip} daddr @cluster-ips{digit} {mark}"));
    } else if let Some(foreign) = settings.local.differs(family) {
        // Somebody may route the service range to this node from outside; the answer has to come back here.
        rules.push(format!("{ip} daddr @cluster-ips{digit} {foreign} {mark}"));
    }
    rules.push(format!("{ip} daddr . meta l4proto . th dport vmap @service-ips{digit}"));
    rules.push(format!(
        "{} meta l4proto . th dport vmap @service-nodeports{digit}",
        to_node(settings, family, true)
    ));
    rules
}

/// The match for packets to this node's own addresses. The routing look-up is needed only before routing.
fn to_node(settings: &Settings, family: Family, before_routing: bool) -> String {
    let ip = ip(family);
    match (&settings.node_port_ips, family) {
        (Some(_), _) => format!("{ip} daddr @nodeport-ips{}", family.digit()),
        (None, Family::V4) if before_routing => "ip daddr != 127.0.0.0/8 fib daddr type local".to_owned(),
        (None, Family::V6) if before_routing => "ip6 daddr != ::1 fib daddr type local".to_owned(),
        (None, Family::V4) => "ip daddr != 127.0.0.0/8".to_owned(),
        (None, Family::V6) => "ip6 daddr != ::1".to_owned(),
    }
}

fn firewall_check(_: &Settings, family: Family) -> Vec<String> {
    vec![format!("{} daddr . meta l4proto . th dport vmap @firewall-ips{}", ip(family), family.digit())]
}

fn endpoints_check(_: &Settings, family: Family) -> Vec<String> {
    vec![format!(
        "{} daddr . meta l4proto . th dport vmap @no-endpoint-services{}",
        ip(family),
        family.digit()
    )]
}

fn node_port_check(settings: &Settings, family: Family) -> Vec<String> {
    let to_node = to_node(settings, family, false);
    vec![format!("{to_node} meta l4proto . th dport vmap @no-endpoint-nodeports{}", family.digit())]
}

/// What still goes to a cluster address here was sent to a port that no service has.
fn cluster_ips_check(_: &Settings, family: Family) -> Vec<String> {
    vec![format!("{} daddr @cluster-ips{} goto {REJECT_CHAIN}", ip(family), family.digit())]
}
