//! What the cluster's domain holds: a pure function of services, endpoints and namespaces.
//!
//! Answers follow the Kubernetes DNS specification 1.1.0. Pods are answered without looking them up, for any address
//! in a namespace that exists, as upstream's default installation does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_server::proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use rustc_hash::FxHashMap;

use super::reverse::{self, Reverse};
use crate::network::{
    feed::{Change, Event, Kind},
    view::{EndpointView, Key, NamespaceView, PortView, ServiceView, SliceView},
};

/// Version of the specification, as `dns-version` answers it.
const SPECIFICATION_VERSION: &str = "1.1.0";
/// SOA timers in seconds: no secondary server ever uses them.
const REFRESH_SECS: i32 = 7_200;
const RETRY_SECS: i32 = 1_800;
const EXPIRE_SECS: i32 = 86_400;

/// A name that stands for another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    /// For the answer section.
    pub record: Record,
    /// The other name.
    pub target: Name,
}

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Records of the asked type; never empty.
    Found {
        /// For the answer section.
        answers: Vec<Record>,
        /// Addresses of the targets in the answer section.
        additionals: Vec<Record>,
    },
    /// An alias; the resolver follows it.
    Alias(Box<Alias>),
    /// The name exists without records of this type.
    NoData,
    /// The name does not exist.
    NoName,
    /// The name is not part of the cluster's domain.
    Foreign,
    /// The cluster's objects are not known yet.
    NotReady,
}

#[derive(Debug, Default)]
struct Namespace {
    exists: bool,
    services: FxHashMap<Box<str>, Service>,
}

#[derive(Debug, Default)]
struct Service {
    view: Option<Arc<ServiceView>>,
    slices: Vec<Arc<SliceView>>,
}

impl Service {
    fn is_headless(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.headless)
    }

    /// Endpoints that are announced: publishNotReadyAddresses makes the API mark all of them ready.
    fn endpoints(&self) -> impl Iterator<Item = (&SliceView, &EndpointView)> {
        let all =
            self.slices.iter().flat_map(|slice| slice.endpoints.iter().map(|endpoint| (&**slice, endpoint)));
        all.filter(|(_, endpoint)| endpoint.ready)
    }

    /// Addresses whose reverse names belong to this service.
    fn reverse_ips(&self) -> Vec<IpAddr> {
        let Some(view) = &self.view else { return Vec::new() };
        let mut ips = view.cluster_ips.clone();
        if view.headless {
            ips.extend(self.endpoints().map(|(_, endpoint)| endpoint.ip));
        }
        ips.sort_unstable();
        ips.dedup();
        ips
    }
}

/// The cluster's domain.
#[derive(Debug)]
pub struct Zone {
    origin: Name,
    name_server: Name,
    mailbox: Name,
    name_server_ips: Vec<IpAddr>,
    ttl_secs: u32,
    serial: u32,
    namespaces: FxHashMap<Box<str>, Namespace>,
    slice_services: FxHashMap<Key, Key>,
    reverse: Reverse,
    synced: [bool; 3],
}

impl Zone {
    /// An empty domain that is not ready. `domain` comes without dots at its ends.
    pub fn new(
        domain: &str,
        name_server_ips: Vec<IpAddr>,
        ttl_secs: u32,
    ) -> Result<Self, hickory_server::proto::ProtoError> {
        let absolute = |text: String| Name::from_ascii(text).map(|name| name.to_lowercase());
        Ok(Self {
            origin: absolute(format!("{domain}."))?,
            name_server: absolute(format!("ns.dns.{domain}."))?,
            mailbox: absolute(format!("hostmaster.{domain}."))?,
            name_server_ips,
            ttl_secs,
            serial: 1,
            namespaces: FxHashMap::default(),
            slice_services: FxHashMap::default(),
            reverse: Reverse::default(),
            synced: [false; 3],
        })
    }

    /// True once all objects are known.
    pub fn is_ready(&self) -> bool {
        self.synced.iter().all(|synced| *synced)
    }

    /// Takes an event in.
    pub fn handle(&mut self, event: &Event) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Service(Change::Set(view)) => {
                self.edit(&view.key, |service| service.view = Some(view.clone()))
            }
            Event::Service(Change::Gone(key)) => self.edit(key, |service| service.view = None),
            Event::Slice(Change::Set(view)) => self.put_slice(view),
            Event::Slice(Change::Gone(key)) => self.drop_slice(key),
            Event::Namespace(Change::Set(view)) => self.namespace(view),
            Event::Namespace(Change::Gone(key)) => {
                if let Some(namespace) = self.namespaces.get_mut(&key.name) {
                    namespace.exists = false;
                }
            }
            Event::Synced(Kind::Service) => self.synced[0] = true,
            Event::Synced(Kind::Slice) => self.synced[1] = true,
            Event::Synced(Kind::Namespace) => self.synced[2] = true,
            _ => {}
        }
    }

    fn namespace(&mut self, view: &NamespaceView) {
        self.namespaces.entry(view.name.clone()).or_default().exists = true;
    }

    fn put_slice(&mut self, view: &Arc<SliceView>) {
        let service = view.service_key();
        if self.slice_services.get(&view.key).is_some_and(|known| *known != service) {
            self.drop_slice(&view.key);
        }
        self.slice_services.insert(view.key.clone(), service.clone());
        self.edit(&service, |service| match service.slices.iter_mut().find(|known| known.key == view.key) {
            Some(known) => *known = view.clone(),
            None => service.slices.push(view.clone()),
        });
    }

    fn drop_slice(&mut self, key: &Key) {
        if let Some(service) = self.slice_services.remove(key) {
            self.edit(&service, |service| service.slices.retain(|slice| slice.key != *key));
        }
    }

    /// Changes a service and keeps the reverse names in step.
    fn edit(&mut self, key: &Key, change: impl FnOnce(&mut Service)) {
        let namespace = self.namespaces.entry(key.namespace.clone()).or_default();
        let service = namespace.services.entry(key.name.clone()).or_default();
        let before = service.reverse_ips();
        change(service);
        let after = service.reverse_ips();
        if service.view.is_none() && service.slices.is_empty() {
            namespace.services.remove(&key.name);
        }
        self.reverse.replace(key, &before, &after);
    }

    /// The record for negative answers; its last field is how long "no" may be remembered.
    pub fn soa(&self) -> Record {
        let soa = SOA::new(
            self.name_server.clone(),
            self.mailbox.clone(),
            self.serial,
            REFRESH_SECS,
            RETRY_SECS,
            EXPIRE_SECS,
            self.ttl_secs,
        );
        Record::from_rdata(self.origin.clone(), self.ttl_secs, RData::SOA(soa))
    }

    /// Resolves a name. `turn` rotates lists of addresses, so that clients spread over them.
    pub fn resolve(&self, name: &Name, kind: RecordType, turn: usize) -> Outcome {
        let lower = name.to_lowercase();
        if let Some(ip) = reverse::address(&lower) {
            return self.reverse_name(name, ip, kind);
        }
        if !self.origin.zone_of(&lower) {
            return Outcome::Foreign;
        }
        if !self.is_ready() {
            return Outcome::NotReady;
        }
        let count = lower.iter().count() - self.origin.iter().count();
        let labels: Option<Vec<&str>> =
            lower.iter().take(count).map(|label| std::str::from_utf8(label).ok()).collect();
        let Some(mut labels) = labels else { return Outcome::NoName };
        labels.reverse();
        let asked = Asked { zone: self, name, kind, turn };
        match labels.as_slice() {
            [] => asked.apex(),
            ["dns-version"] => asked.text(SPECIFICATION_VERSION),
            ["dns", "ns"] => asked.addresses(&self.name_server_ips),
            ["svc" | "pod" | "dns"] => Outcome::NoData,
            ["svc" | "pod", namespace] if self.has_namespace(namespace) => Outcome::NoData,
            ["pod", namespace, ip] if self.has_namespace(namespace) => match dashed(ip) {
                Some(ip) => asked.addresses(&[ip]),
                None => Outcome::NoName,
            },
            ["svc", namespace, service, rest @ ..] => match self.service(namespace, service) {
                Some(service) => asked.service(service, rest),
                None => Outcome::NoName,
            },
            _ => Outcome::NoName,
        }
    }

    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some_and(|namespace| namespace.exists || !namespace.services.is_empty())
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.namespaces.get(namespace)?.services.get(name).filter(|service| service.view.is_some())
    }

    fn service_name(&self, key: &Key) -> Option<Name> {
        let labels = [key.name.as_bytes(), key.namespace.as_bytes(), b"svc"];
        Name::from_labels(labels).ok()?.append_domain(&self.origin).ok()
    }

    fn endpoint_name(&self, key: &Key, endpoint: &EndpointView) -> Option<Name> {
        self.service_name(key)?.prepend_label(endpoint_label(endpoint).as_bytes()).ok()
    }

    fn reverse_name(&self, name: &Name, ip: IpAddr, kind: RecordType) -> Outcome {
        let mut targets: Vec<Name> = Vec::new();
        for key in self.reverse.services(ip) {
            let Some(service) = self.service(&key.namespace, &key.name) else { continue };
            if service.view.as_ref().is_some_and(|view| view.cluster_ips.contains(&ip)) {
                targets.extend(self.service_name(key));
                continue;
            }
            let endpoints = service.endpoints().filter(|(_, endpoint)| endpoint.ip == ip);
            targets.extend(endpoints.filter_map(|(_, endpoint)| self.endpoint_name(key, endpoint)));
        }
        targets.dedup();
        match (targets.is_empty(), kind) {
            (true, _) => Outcome::Foreign,
            (false, RecordType::PTR | RecordType::ANY) => Outcome::Found {
                answers: targets.into_iter().map(|to| self.record(name, RData::PTR(PTR(to)))).collect(),
                additionals: Vec::new(),
            },
            (false, _) => Outcome::NoData,
        }
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_secs, data)
    }
}

/// The first label of an endpoint: its host name, or its address with dashes.
fn endpoint_label(endpoint: &EndpointView) -> String {
    match (&endpoint.hostname, endpoint.ip) {
        (Some(hostname), _) => hostname.to_lowercase(),
        (None, IpAddr::V4(ip)) => ip.to_string().replace('.', "-"),
        (None, IpAddr::V6(ip)) => {
            let label = ip.to_string().replace(':', "-");
            // A label must not begin or end with a dash.
            let front = if label.starts_with('-') { "0" } else { "" };
            let back = if label.ends_with('-') { "0" } else { "" };
            format!("{front}{label}{back}")
        }
    }
}

/// Reads `10-1-2-3` or `fd00--1`.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// One question.
struct Asked<'a> {
    zone: &'a Zone,
    name: &'a Name,
    kind: RecordType,
    turn: usize,
}

impl Asked<'_> {
    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn found(&self, mut answers: Vec<Record>, additionals: Vec<Record>) -> Outcome {
        if answers.is_empty() {
            return Outcome::NoData;
        }
        let turn = self.turn % answers.len();
        answers.rotate_left(turn);
        Outcome::Found { answers, additionals }
    }

    fn apex(&self) -> Outcome {
        let mut answers = Vec::new();
        if self.wants(RecordType::SOA) {
            answers.push(self.zone.soa());
        }
        if self.wants(RecordType::NS) {
            answers.push(self.zone.record(self.name, RData::NS(NS(self.zone.name_server.clone()))));
        }
        self.found(answers, Vec::new())
    }

    fn text(&self, text: &str) -> Outcome {
        match self.wants(RecordType::TXT) {
            true => self.found(
                vec![self.zone.record(self.name, RData::TXT(TXT::new(vec![text.to_owned()])))],
                Vec::new(),
            ),
            false => Outcome::NoData,
        }
    }

    fn address(&self, name: &Name, ip: IpAddr) -> Record {
        let data = match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        self.zone.record(name, data)
    }

    fn addresses(&self, ips: &[IpAddr]) -> Outcome {
        let mut wanted: Vec<IpAddr> = ips
            .iter()
            .copied()
            .filter(|ip| self.wants(if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.found(wanted.into_iter().map(|ip| self.address(self.name, ip)).collect(), Vec::new())
    }

    fn service(&self, service: &Service, rest: &[&str]) -> Outcome {
        let Some(view) = &service.view else { return Outcome::NoName };
        if let Some(target) = &view.external_name {
            return match rest {
                [] => self.alias(target),
                _ => Outcome::NoName,
            };
        }
        match rest {
            [] if self.kind == RecordType::SRV => self.srv(view, service, |_, _| true),
            [] if view.headless => {
                let ips: Vec<IpAddr> = service.endpoints().map(|(_, endpoint)| endpoint.ip).collect();
                self.addresses(&ips)
            }
            [] => self.addresses(&view.cluster_ips),
            [protocol] if protocol.starts_with('_') => {
                match view.ports.iter().any(|port| protocol[1..] == *port.protocol.as_str()) {
                    true => Outcome::NoData,
                    false => Outcome::NoName,
                }
            }
            [protocol, port] if protocol.starts_with('_') && port.starts_with('_') => {
                self.port(view, service, &protocol[1..], &port[1..])
            }
            [label] if service.is_headless() => self.endpoint(service, label),
            _ => Outcome::NoName,
        }
    }

    fn alias(&self, target: &str) -> Outcome {
        // An address in place of a name is answered by nobody; upstream does the same.
        let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
            return Outcome::NoData;
        };
        Outcome::Alias(Box::new(Alias {
            record: self.zone.record(self.name, RData::CNAME(CNAME(target.clone()))),
            target,
        }))
    }

    fn endpoint(&self, service: &Service, label: &str) -> Outcome {
        let named = service.endpoints().filter(|(_, endpoint)| endpoint_label(endpoint) == label);
        let ips: Vec<IpAddr> = named.map(|(_, endpoint)| endpoint.ip).collect();
        if ips.is_empty() { Outcome::NoName } else { self.addresses(&ips) }
    }

    fn port(&self, view: &ServiceView, service: &Service, protocol: &str, name: &str) -> Outcome {
        let matches = |port_name: &str, port_protocol: &str| port_name == name && port_protocol == protocol;
        let declared = view.ports.iter().any(|port| matches(&port.name, port.protocol.as_str()));
        let listed = service.slices.iter().flat_map(|slice| &slice.ports);
        let mut listed = listed.filter(|_| view.headless);
        if !declared && !listed.any(|port| matches(&port.name, port.protocol.as_str())) {
            return Outcome::NoName;
        }
        match self.wants(RecordType::SRV) {
            true => self.srv(view, service, matches),
            false => Outcome::NoData,
        }
    }

    fn srv(&self, view: &ServiceView, service: &Service, wanted: impl Fn(&str, &str) -> bool) -> Outcome {
        let mut targets: Vec<(u16, Name, IpAddr)> = Vec::new();
        if view.headless {
            for (slice, endpoint) in service.endpoints() {
                let ports = slice.ports.iter().filter(|port| wanted(&port.name, port.protocol.as_str()));
                let name = self.zone.endpoint_name(&view.key, endpoint);
                targets.extend(ports.filter_map(|port| Some((port.port, name.clone()?, endpoint.ip))));
            }
        } else {
            let name = self.zone.service_name(&view.key);
            let wanted = |port: &&PortView| wanted(&port.name, port.protocol.as_str());
            for port in view.ports.iter().filter(wanted) {
                let ips = view.cluster_ips.iter();
                targets.extend(ips.filter_map(|ip| Some((port.port, name.clone()?, *ip))));
            }
        }
        let mut answers: Vec<Record> = Vec::new();
        let mut additionals: Vec<Record> = Vec::new();
        let mut pairs: Vec<(u16, &Name)> = targets.iter().map(|(port, name, _)| (*port, name)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        // Weights share 100 as upstream's do.
        let weight = u16::try_from(100 / pairs.len().max(1)).unwrap_or(1).max(1);
        for (port, name) in pairs {
            answers.push(self.zone.record(self.name, RData::SRV(SRV::new(0, weight, port, name.clone()))));
        }
        let mut known: Vec<(&Name, IpAddr)> = targets.iter().map(|(_, name, ip)| (name, *ip)).collect();
        known.sort_unstable();
        known.dedup();
        additionals.extend(known.into_iter().map(|(name, ip)| self.address(name, ip)));
        self.found(answers, additionals)
    }
}
