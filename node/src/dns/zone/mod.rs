//! What the cluster's domain holds: a pure function of services, endpoints and namespaces.
//!
//! Answers follow the Kubernetes DNS specification 1.1.0. Pods are answered without looking them up, for any address
//! in a namespace that exists, as upstream's default installation does.

mod asked;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_server::proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{PTR, SOA},
};
use rustc_hash::FxHashMap;

use self::asked::Asked;
use super::reverse::{self, Reverse};
use crate::network::{
    feed::{Change, Event, Kind},
    view::{EndpointView, Key, NamespaceView, ServiceView, SliceView},
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
                self.forget_empty(&key.name);
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

    /// Namespaces come and go with every test run of a user; none may stay behind.
    fn forget_empty(&mut self, name: &str) {
        if self.namespaces.get(name).is_some_and(|known| !known.exists && known.services.is_empty()) {
            self.namespaces.remove(name);
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
        self.forget_empty(&key.namespace);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_namespace_stays_whichever_of_its_objects_goes_last() {
        let key = Key::new("ns", "s");
        let service = serde_json::json!({"metadata": {"name": "s", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
        let service = serde_json::from_value(service).expect("a service");
        let namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": "ns"}}));
        let namespace = NamespaceView::from_api(&namespace.expect("a namespace"));
        let gone = [Event::Service(Change::Gone(key)), Event::Namespace(Change::Gone(Key::new("", "ns")))];
        for order in [[0, 1], [1, 0]] {
            let mut zone = Zone::new("cluster.local", Vec::new(), 5).expect("a domain");
            zone.handle(&Event::Namespace(Change::Set(Arc::new(namespace.clone()))));
            zone.handle(&Event::Service(Change::Set(Arc::new(ServiceView::from_api(&service)))));
            for at in order {
                assert_eq!(zone.namespaces.len(), 1, "{order:?}");
                zone.handle(&gone[at]);
            }
            assert!(zone.namespaces.is_empty(), "{order:?}");
        }
    }
}
