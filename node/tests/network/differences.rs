//! Random histories of services and endpoints: the table that adds up from differences is always whole, and holds
//! exactly what a naive reading of the objects gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use node::{
    network::{
        feed::{Change, Event, Kind},
        nft::{Body, Changes, Slot},
        view::{EndpointView, Key, PortView, Protocol, ServiceKind, ServiceView, SlicePort, SliceView},
    },
    proxy::{
        core::{Core, CoreConfig},
        rules::Settings,
    },
};
use proptest::prelude::*;

/// State of an endpoint: ready, terminating but serving, or gone; and whether it runs on this node.
type Endpoint = (u8, bool);

#[derive(Clone, Debug)]
enum Step {
    Service { number: u8, node_port: bool, local: bool, sticky: bool },
    NoService(u8),
    Slice { service: u8, part: u8, endpoints: Vec<Endpoint> },
    NoSlice { service: u8, part: u8 },
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..3, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(number, node_port, local, sticky)| Step::Service { number, node_port, local, sticky }
        ),
        (0u8..3).prop_map(Step::NoService),
        (0u8..3, 0u8..2, prop::collection::vec((0u8..3, any::<bool>()), 0..6))
            .prop_map(|(service, part, endpoints)| Step::Slice { service, part, endpoints }),
        (0u8..3, 0u8..2).prop_map(|(service, part)| Step::NoSlice { service, part }),
        Just(Step::Sync),
        Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..40)
}

fn vip(number: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, number + 1])
}

fn service(number: u8, node_port: bool, local: bool, sticky: bool) -> ServiceView {
    ServiceView {
        key: Key::new("ns", &format!("s{number}")),
        kind: if node_port { ServiceKind::NodePort } else { ServiceKind::ClusterIp },
        cluster_ips: vec![vip(number)],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![PortView {
            name: "p".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: node_port.then_some(30_000 + u16::from(number)),
        }],
        affinity_secs: sticky.then_some(60),
        internal_local: false,
        external_local: node_port && local,
        health_check_node_port: None,
        foreign_proxy: false,
    }
}

fn address(service: u8, part: u8, index: usize) -> SocketAddr {
    SocketAddr::from(([10, service + 1, part, u8::try_from(index).expect("few") + 1], 8_080))
}

fn slice(service: u8, part: u8, endpoints: &[Endpoint]) -> SliceView {
    let view = |(index, (state, local)): (usize, &Endpoint)| EndpointView {
        ip: address(service, part, index).ip(),
        node: Some(if *local { "me" } else { "other" }.into()),
        hostname: None,
        ready: *state == 0,
        serving: *state <= 1,
        terminating: *state >= 1,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    };
    SliceView {
        key: Key::new("ns", &format!("s{service}-{part}")),
        service: format!("s{service}").into(),
        ports: vec![SlicePort { name: "p".into(), protocol: Protocol::Tcp, port: 8_080 }],
        endpoints: endpoints.iter().enumerate().map(view).collect(),
        triggered: None,
        not_proxied: false,
    }
}

/// The objects, read naively.
#[derive(Default)]
struct Model {
    services: BTreeMap<u8, (bool, bool, bool)>,
    slices: BTreeMap<(u8, u8), Vec<Endpoint>>,
}

impl Model {
    fn reachable(&self, service: u8, only_local: bool) -> BTreeSet<SocketAddr> {
        let in_state = |wanted: u8| {
            let slices = self.slices.iter().filter(|((owner, _), _)| *owner == service);
            let all = slices.flat_map(|((owner, part), endpoints)| {
                endpoints
                    .iter()
                    .enumerate()
                    .map(|(index, endpoint)| (address(*owner, *part, index), *endpoint))
            });
            let picked = all.filter(|(_, (state, local))| *state == wanted && (!only_local || *local));
            picked.map(|(at, _)| at).collect::<BTreeSet<_>>()
        };
        let ready = in_state(0);
        if ready.is_empty() { in_state(1) } else { ready }
    }
}

type Table = BTreeMap<Slot, Body>;

fn apply(table: &mut Table, changes: Changes) {
    if changes.replace_table {
        table.clear();
    }
    for slot in changes.gone.keys() {
        assert!(table.remove(slot).is_some(), "only what stands is deleted: {slot:?}");
    }
    for (slot, body) in changes.put {
        let chain = matches!(slot, Slot::Chain(_));
        assert!(table.insert(slot, body).is_none() || chain, "elements are never added twice");
    }
}

fn element<'a>(table: &'a Table, set: &str, key: &str) -> Option<&'a str> {
    match table.get(&Slot::Element(set.into(), key.into()))? {
        Body::Element(value) => Some(value),
        _ => None,
    }
}

fn chain(table: &Table, name: &str) -> Vec<String> {
    match table.get(&Slot::Chain(name.into())) {
        Some(Body::Chain(chain)) => chain.rules.clone(),
        _ => panic!("chain {name} is used but absent"),
    }
}

/// Every chain and set that anything names is there.
fn check_references(table: &Table) {
    let names = regex::Regex::new(r"(?:goto|jump) ([^ ,}]+)|@([^ ,}]+)").expect("a pattern");
    for (slot, body) in table {
        let texts: Vec<String> = match body {
            Body::Chain(chain) => chain.rules.clone(),
            Body::Element(value) => vec![value.to_string()],
            Body::Set(_) => continue,
        };
        for found in texts.iter().flat_map(|text| names.captures_iter(text)) {
            let wanted = match (found.get(1), found.get(2)) {
                (Some(chain), _) => Slot::Chain(chain.as_str().into()),
                (_, Some(set)) => Slot::Set(set.as_str().into()),
                _ => continue,
            };
            assert!(table.contains_key(&wanted), "{slot:?} names {wanted:?}");
        }
        if let Slot::Element(set, _) = slot {
            assert!(table.contains_key(&Slot::Set(set.clone())), "{slot:?} has no set");
        }
    }
}

/// The endpoints that a chain can send a packet with this map key to.
fn targets(table: &Table, chain_name: &str, key: &str) -> BTreeSet<SocketAddr> {
    let goto = regex::Regex::new(r"goto ([^ ,}]+)").expect("a pattern");
    let map = regex::Regex::new(r"dnat ip addr \. port to .* map @(\S+)").expect("a pattern");
    let fixed = regex::Regex::new(r"dnat ip to (\S+)").expect("a pattern");
    let mut found = BTreeSet::new();
    for rule in chain(table, chain_name) {
        // What only processes and pods of this node get is another question.
        if rule.starts_with("fib saddr") {
            continue;
        }
        if let Some(name) = map.captures(&rule) {
            let value = element(table, &name[1], key).unwrap_or_else(|| panic!("no {key} in {}", &name[1]));
            found.insert(value.replace(" . ", ":").parse().expect("an endpoint"));
        } else if let Some(endpoint) = fixed.captures(&rule) {
            found.insert(endpoint[1].parse().expect("an endpoint"));
        } else {
            for next in goto.captures_iter(&rule) {
                found.extend(targets(table, &next[1], key));
            }
        }
    }
    found
}

fn check_front(
    table: &Table,
    maps: (&str, &str),
    key: &str,
    expected: &BTreeSet<SocketAddr>,
    anywhere: bool,
) {
    let reached = element(table, maps.0, key).and_then(|value| value.strip_prefix("goto "));
    let missing = element(table, maps.1, key);
    let got = reached.map(|chain| targets(table, chain, key)).unwrap_or_default();
    assert_eq!(&got, expected, "endpoints of {key}");
    let verdict = match (expected.is_empty(), anywhere) {
        (false, _) => None,
        (true, true) => Some("drop"),
        (true, false) => Some("goto reject-chain"),
    };
    assert_eq!(missing, verdict, "verdict for {key} without endpoints");
}

fn check(table: &Table, model: &Model) {
    check_references(table);
    for number in 0..3u8 {
        let (key, node_key) =
            (format!("{} . tcp . 80", vip(number)), format!("tcp . {}", 30_000 + u16::from(number)));
        let Some((node_port, local, _)) = model.services.get(&number) else {
            let left = table
                .keys()
                .find(|slot| matches!(slot, Slot::Element(_, k) if **k == *key || **k == *node_key));
            assert_eq!(left, None, "nothing of a service that is gone");
            continue;
        };
        let all = model.reachable(number, false);
        check_front(table, ("service-ips4", "no-endpoint-services4"), &key, &all, false);
        if *node_port {
            let outside = if *local { model.reachable(number, true) } else { all.clone() };
            let maps = ("service-nodeports4", "no-endpoint-nodeports4");
            check_front(table, maps, &node_key, &outside, !all.is_empty());
        }
    }
}

fn core() -> Core {
    let mut core = Core::new(CoreConfig {
        node_name: "me".to_owned(),
        settings: Settings::default(),
        local_from_node: false,
        node_ports_on_node_ips: false,
        policies: false,
    });
    [Kind::Service, Kind::Slice].iter().for_each(|kind| core.handle(&Event::Synced(*kind)));
    core
}

#[test]
fn a_table_written_afresh_looks_for_stale_flows_of_every_udp_service() {
    let mut core = core();
    for (number, protocol, foreign_proxy) in
        [(0, Protocol::Udp, false), (1, Protocol::Tcp, false), (2, Protocol::Udp, true)]
    {
        let mut view = ServiceView { foreign_proxy, ..service(number, false, false, false) };
        view.ports[0].protocol = protocol;
        let mut endpoints = slice(number, 0, &[(0, true)]);
        endpoints.ports[0].protocol = protocol;
        core.handle(&Event::Service(Change::Set(Arc::new(view))));
        core.handle(&Event::Slice(Change::Set(Arc::new(endpoints))));
    }
    let mut fronts =
        || core.sync().udp.into_iter().flat_map(|front| front.addresses).collect::<Vec<IpAddr>>();
    assert_eq!(fronts(), [vip(0)], "the first table");
    assert_eq!(fronts(), [] as [IpAddr; 0], "nothing changed");
    core.replace_all();
    let again: Vec<IpAddr> = core.sync().udp.into_iter().flat_map(|front| front.addresses).collect();
    assert_eq!(again, [vip(0)], "the table was refused or lost");
}

#[test]
fn health_check_ports_of_services_of_another_proxy_are_left_to_it() {
    let mut core = core();
    for (number, foreign_proxy) in [(0, false), (1, true)] {
        let health_check_node_port = Some(31_000 + u16::from(number));
        let view =
            ServiceView { foreign_proxy, health_check_node_port, ..service(number, true, true, false) };
        core.handle(&Event::Service(Change::Set(Arc::new(view))));
    }
    core.sync();
    assert_eq!(core.health_checks().into_values().collect::<Vec<_>>(), [(31_000, 0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn differences_give_what_a_naive_reading_gives(steps in steps()) {
        let mut core = core();
        let (mut table, mut model) = (Table::new(), Model::default());
        for step in steps.into_iter().chain([Step::Sync]) {
            match step {
                Step::Service { number, node_port, local, sticky } => {
                    model.services.insert(number, (node_port, local, sticky));
                    core.handle(&Event::Service(Change::Set(Arc::new(service(number, node_port, local, sticky)))));
                }
                Step::NoService(number) => {
                    model.services.remove(&number);
                    core.handle(&Event::Service(Change::Gone(Key::new("ns", &format!("s{number}")))));
                }
                Step::Slice { service, part, endpoints } => {
                    core.handle(&Event::Slice(Change::Set(Arc::new(slice(service, part, &endpoints)))));
                    model.slices.insert((service, part), endpoints);
                }
                Step::NoSlice { service, part } => {
                    model.slices.remove(&(service, part));
                    core.handle(&Event::Slice(Change::Gone(Key::new("ns", &format!("s{service}-{part}")))));
                }
                Step::Sync => {
                    apply(&mut table, core.sync().changes);
                    check(&table, &model);
                }
            }
        }
    }
}
