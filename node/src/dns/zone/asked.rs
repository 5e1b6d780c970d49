//! The records of one name, asked for one type.

use std::net::IpAddr;

use hickory_server::proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, SRV, TXT},
};

use super::{Alias, Outcome, Service, Zone, endpoint_label};
use crate::network::view::{PortView, ServiceView};

/// One question.
pub(super) struct Asked<'a> {
    pub zone: &'a Zone,
    pub name: &'a Name,
    pub kind: RecordType,
    pub turn: usize,
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

    pub fn apex(&self) -> Outcome {
        let mut answers = Vec::new();
        if self.wants(RecordType::SOA) {
            answers.push(self.zone.soa());
        }
        if self.wants(RecordType::NS) {
            answers.push(self.zone.record(self.name, RData::NS(NS(self.zone.name_server.clone()))));
        }
        self.found(answers, Vec::new())
    }

    pub fn text(&self, text: &str) -> Outcome {
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

    pub fn addresses(&self, ips: &[IpAddr]) -> Outcome {
        let mut wanted: Vec<IpAddr> = ips
            .iter()
            .copied()
            .filter(|ip| self.wants(if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.found(wanted.into_iter().map(|ip| self.address(self.name, ip)).collect(), Vec::new())
    }

    pub fn service(&self, service: &Service, rest: &[&str]) -> Outcome {
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
