//! What the cluster's domain answers, name by name, after the Kubernetes DNS specification 1.1.0.

use std::sync::Arc;

use hickory_server::proto::rr::{Name, RData, Record, RecordType, RecordType as T};
use node::{
    dns::zone::{Outcome, Zone},
    network::{
        feed::{Change, Event, Kind},
        view::{Key, NamespaceView, ServiceView, SliceView},
    },
};
use serde_json::{Value, json};

fn service(namespace: &str, name: &str, spec: Value) -> Event {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    let object = serde_json::from_value(object).expect("a service");
    Event::Service(Change::Set(Arc::new(ServiceView::from_api(&object))))
}

fn slice(namespace: &str, service: &str, family: &str, ports: Value, endpoints: Value) -> Event {
    let object = json!({
        "metadata": {"namespace": namespace, "name": format!("{service}-{family}"),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports, "endpoints": endpoints,
    });
    let object = serde_json::from_value(object).expect("a slice");
    Event::Slice(Change::Set(Arc::new(SliceView::from_api(&object).expect("it names a service"))))
}

fn namespace(name: &str) -> Event {
    Event::Namespace(Change::Set(Arc::new(NamespaceView { name: name.into(), labels: Default::default() })))
}

fn example() -> Zone {
    let mut zone = Zone::new("cluster.local", vec!["10.96.0.10".parse().expect("ip")], 5).expect("a domain");
    let events = [
        namespace("shop"),
        namespace("empty"),
        service(
            "shop",
            "web",
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        service("shop", "db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        slice(
            "shop",
            "db",
            "IPv4",
            json!([{"name": "sql", "port": 5432}]),
            json!([
            {"addresses": ["10.1.0.1"], "hostname": "db-0"},
            {"addresses": ["10.1.0.2"]},
            {"addresses": ["10.1.0.3"], "conditions": {"ready": false}}]),
        ),
        slice(
            "shop",
            "db",
            "IPv6",
            json!([{"name": "sql", "port": 5432}]),
            json!([
            {"addresses": ["fd00:1::1"], "hostname": "db-0"}]),
        ),
        service("shop", "ext", json!({"type": "ExternalName", "externalName": "example.org"})),
        service(
            "shop",
            "near",
            json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}),
        ),
        Event::Synced(Kind::Service),
        Event::Synced(Kind::Slice),
        Event::Synced(Kind::Namespace),
    ];
    events.iter().for_each(|event| zone.handle(event));
    zone
}

fn show(record: &Record) -> String {
    match &record.data {
        RData::A(ip) => format!("A {ip}"),
        RData::AAAA(ip) => format!("AAAA {ip}"),
        RData::CNAME(name) => format!("CNAME {}", name.0),
        RData::PTR(name) => format!("PTR {}", name.0),
        RData::NS(name) => format!("NS {}", name.0),
        RData::SRV(srv) => format!("SRV {} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        RData::TXT(text) => format!("TXT {text}"),
        RData::SOA(soa) => format!("SOA {} minimum {}", soa.mname, soa.minimum),
        other => format!("{other:?}"),
    }
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(name).expect("a name");
    match zone.resolve(&name, kind, 0) {
        Outcome::Found { answers, additionals } => {
            assert!(answers.iter().all(|record| record.name.eq_case(&name)), "the asked spelling comes back");
            let list = |records: &[Record]| {
                let mut shown: Vec<String> = records.iter().map(show).collect();
                shown.sort();
                shown.join(", ")
            };
            if additionals.is_empty() {
                list(&answers)
            } else {
                format!("{} + {}", list(&answers), list(&additionals))
            }
        }
        Outcome::Alias(alias) => format!("{} -> {}", show(&alias.record), alias.target),
        Outcome::NoData => "no data".to_owned(),
        Outcome::NoName => "no name".to_owned(),
        Outcome::Foreign => "foreign".to_owned(),
        Outcome::NotReady => "not ready".to_owned(),
    }
}

/// A name, the kind of record asked for, and the answer.
type Row = (&'static str, T, &'static str);

const SERVICES: &[Row] = &[
    ("web.shop.svc.cluster.local.", T::A, "A 10.96.0.5"),
    ("WEB.Shop.svc.Cluster.local.", T::A, "A 10.96.0.5"),
    ("web.shop.svc.cluster.local.", T::AAAA, "AAAA fd00::5"),
    ("web.shop.svc.cluster.local.", T::MX, "no data"),
    ("none.shop.svc.cluster.local.", T::A, "no name"),
    ("web.none.svc.cluster.local.", T::A, "no name"),
    ("x.web.shop.svc.cluster.local.", T::A, "no name"),
    (
        "_http._tcp.web.shop.svc.cluster.local.",
        T::SRV,
        "SRV 0 100 80 web.shop.svc.cluster.local. + A 10.96.0.5, AAAA fd00::5",
    ),
    (
        "_dns._udp.web.shop.svc.cluster.local.",
        T::SRV,
        "SRV 0 100 53 web.shop.svc.cluster.local. + A 10.96.0.5, AAAA fd00::5",
    ),
    ("_http._udp.web.shop.svc.cluster.local.", T::SRV, "no name"),
    ("_http._tcp.web.shop.svc.cluster.local.", T::A, "no data"),
    ("_tcp.web.shop.svc.cluster.local.", T::A, "no data"),
];

const HEADLESS_SERVICES: &[Row] = &[
    ("db.shop.svc.cluster.local.", T::A, "A 10.1.0.1, A 10.1.0.2"),
    ("db.shop.svc.cluster.local.", T::AAAA, "AAAA fd00:1::1"),
    ("db-0.db.shop.svc.cluster.local.", T::A, "A 10.1.0.1"),
    ("10-1-0-2.db.shop.svc.cluster.local.", T::A, "A 10.1.0.2"),
    ("10-1-0-2.db.shop.svc.cluster.local.", T::AAAA, "no data"),
    ("10-1-0-3.db.shop.svc.cluster.local.", T::A, "no name"),
    (
        "_sql._tcp.db.shop.svc.cluster.local.",
        T::SRV,
        "SRV 0 50 5432 10-1-0-2.db.shop.svc.cluster.local., SRV 0 50 5432 db-0.db.shop.svc.cluster.local. + \
         A 10.1.0.1, A 10.1.0.2, AAAA fd00:1::1",
    ),
];

const OTHER_NAMES: &[Row] = &[
    ("ext.shop.svc.cluster.local.", T::A, "CNAME example.org. -> example.org."),
    (
        "near.shop.svc.cluster.local.",
        T::A,
        "CNAME web.shop.svc.cluster.local. -> web.shop.svc.cluster.local.",
    ),
    ("10-9-8-7.shop.pod.cluster.local.", T::A, "A 10.9.8.7"),
    ("fd00--1.shop.pod.cluster.local.", T::AAAA, "AAAA fd00::1"),
    ("10-9-8-7.none.pod.cluster.local.", T::A, "no name"),
    ("web.shop.pod.cluster.local.", T::A, "no name"),
    ("shop.svc.cluster.local.", T::A, "no data"),
    ("empty.svc.cluster.local.", T::A, "no data"),
    ("none.svc.cluster.local.", T::A, "no name"),
    ("svc.cluster.local.", T::A, "no data"),
    ("cluster.local.", T::SOA, "SOA ns.dns.cluster.local. minimum 5"),
    ("cluster.local.", T::NS, "NS ns.dns.cluster.local."),
    ("cluster.local.", T::A, "no data"),
    ("ns.dns.cluster.local.", T::A, "A 10.96.0.10"),
    ("dns-version.cluster.local.", T::TXT, "TXT 1.1.0"),
    ("*.shop.svc.cluster.local.", T::A, "no name"),
    ("www.example.com.shop.svc.cluster.local.", T::A, "no name"),
    ("www.example.com.cluster.local.", T::A, "no name"),
    ("www.example.com.", T::A, "foreign"),
    ("notcluster.local.", T::A, "foreign"),
];

const V6_REVERSE: &str = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";

const REVERSE_NAMES: &[Row] = &[
    ("5.0.96.10.in-addr.arpa.", T::PTR, "PTR web.shop.svc.cluster.local."),
    ("1.0.1.10.in-addr.arpa.", T::PTR, "PTR db-0.db.shop.svc.cluster.local."),
    ("2.0.1.10.in-addr.arpa.", T::PTR, "PTR 10-1-0-2.db.shop.svc.cluster.local."),
    ("5.0.96.10.in-addr.arpa.", T::A, "no data"),
    ("9.9.9.9.in-addr.arpa.", T::PTR, "foreign"),
    (V6_REVERSE, T::PTR, "PTR db-0.db.shop.svc.cluster.local."),
];

#[test]
fn every_kind_of_name() {
    let zone = example();
    for (name, kind, expected) in [SERVICES, HEADLESS_SERVICES, OTHER_NAMES, REVERSE_NAMES].concat() {
        assert_eq!(ask(&zone, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn changes_are_followed_and_reverse_names_go_with_them() {
    let mut zone = example();
    let (web, reverse) = ("web.shop.svc.cluster.local.", "5.0.96.10.in-addr.arpa.");
    zone.handle(&service("shop", "web", json!({"clusterIP": "10.96.0.6", "ports": [{"port": 80}]})));
    assert_eq!(ask(&zone, web, RecordType::A), "A 10.96.0.6");
    assert_eq!(ask(&zone, reverse, RecordType::PTR), "foreign");
    zone.handle(&Event::Slice(Change::Gone(Key::new("shop", "db-IPv4"))));
    assert_eq!(ask(&zone, "db.shop.svc.cluster.local.", RecordType::A), "no data");
    assert_eq!(ask(&zone, "1.0.1.10.in-addr.arpa.", RecordType::PTR), "foreign");
    zone.handle(&Event::Service(Change::Gone(Key::new("shop", "web"))));
    assert_eq!(ask(&zone, web, RecordType::A), "no name");
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut zone = Zone::new("cluster.local", vec![], 5).expect("a domain");
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", RecordType::A), "not ready");
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
        assert!(!zone.is_ready());
        zone.handle(&Event::Synced(kind));
    }
    assert!(zone.is_ready());
    assert_eq!(ask(&zone, "web.shop.svc.cluster.local.", RecordType::A), "no name");
}

#[test]
fn lists_of_addresses_are_rotated() {
    let zone = example();
    let name = Name::from_ascii("db.shop.svc.cluster.local.").expect("a name");
    let first = |turn| match zone.resolve(&name, RecordType::A, turn) {
        Outcome::Found { answers, .. } => show(&answers[0]),
        other => panic!("expected addresses, got {other:?}"),
    };
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(2));
}
