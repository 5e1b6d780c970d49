//! Services with real sockets: every type, traffic policy and corner, in network namespaces.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use crate::{
    lab::{
        self, Lab, Namespace, endpoints, eventually, exchange, no_service, pod_v4, pod_v6, service,
        service_with_status, slice,
    },
    proxy::Proxy,
};
use node::network::feed::Event;
use serde_json::{Value, json};

fn ports(port: u16, node_port: Option<u16>) -> Value {
    json!([{"port": port, "nodePort": node_port, "protocol": "TCP"}])
}

/// How often each answer came in `count` tries, without the client's address.
fn spread(from: &Namespace, to: &str, count: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let answer = from.fetch(to);
        *seen.entry(answer.split('|').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    seen
}

fn http_get(from: &Namespace, to: &str, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = from.connect(to) {
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

fn servers(lab: &Lab) {
    for number in 0..2 {
        let pod = &lab.pods[number];
        pod.serve_tcp(&format!("{}:8080", pod_v4(number)), &format!("p{number}"));
        pod.serve_tcp(&format!("[{}]:8080", pod_v6(number)), &format!("p{number}"));
        pod.serve_udp(&format!("{}:5353", pod_v4(number)), &format!("p{number}"));
    }
}

fn web(spec: Value) -> Value {
    let mut all = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports(80, None)});
    for (key, value) in spec.as_object().expect("an object") {
        all[key] = value.clone();
    }
    all
}

fn both() -> Event {
    endpoints("web", "TCP", 8080, &[("10.77.1.10", "n1"), ("10.77.1.11", "n1")])
}

#[test]
fn cluster_addresses() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("cluster", 3);
    servers(&lab);
    let proxy = Proxy::start(&lab.node, vec![service("web", web(json!({}))), both()]);
    let (client, vip) = (&lab.pods[2], "10.96.0.5:80");
    eventually("a pod reaches the service", || client.fetch(vip), |answer| answer.starts_with('p'));
    let seen = spread(client, vip, 40);
    assert!(
        seen.len() == 2 && seen.values().all(|count| *count >= 8),
        "both endpoints take traffic: {seen:?}"
    );
    assert_eq!(client.fetch(vip).split('|').nth(1), Some("10.77.1.12"), "pods keep their address");
    assert!(lab.node.fetch(vip).starts_with('p'), "processes of the node reach it");
    // The route to the service range leads to the node: masqueraded, so that answers come back.
    assert_eq!(lab.outside.fetch(vip).split('|').nth(1), Some("10.77.1.1"));
    // A pod behind the service reaches itself and sees the node as its peer.
    let own = (0..40).map(|_| lab.pods[0].fetch(vip)).collect::<Vec<_>>();
    assert!(own.iter().any(|answer| answer == "p0|10.77.1.1"), "hairpin: {own:?}");
    assert!(own.iter().all(|answer| answer.starts_with('p')), "no lost connection: {own:?}");
    assert_eq!(client.fetch("10.96.0.5:81"), "<refused>", "a port that the service does not have");

    proxy.send([endpoints("web", "TCP", 8080, &[("10.77.1.11", "n1")])]);
    eventually(
        "an endpoint leaves",
        || spread(client, vip, 12),
        |seen| seen.len() == 1 && seen.contains_key("p1"),
    );
    proxy.send([endpoints("web", "TCP", 8080, &[])]);
    eventually("no endpoints", || client.fetch(vip), |answer| answer == "<refused>");
    assert_eq!(lab.node.fetch(vip), "<refused>");
    proxy.send([no_service("web")]);
    eventually(
        "nothing of the service stays",
        || lab.node.output("nft", &["list", "table", "inet", "quarterdeck-proxy"]),
        |table| !table.contains("10.96.0.5") && !table.contains("10.77.1.1"),
    );
}

#[test]
fn ipv6_cluster_addresses() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("six", 3);
    servers(&lab);
    let spec = json!({"clusterIP": "fd00:96::5", "clusterIPs": ["fd00:96::5"], "ports": ports(80, None)});
    let list =
        json!([{"addresses": [pod_v6(0)], "nodeName": "n1"}, {"addresses": [pod_v6(1)], "nodeName": "n1"}]);
    let _proxy =
        Proxy::start(&lab.node, vec![service("web", spec), slice("web", json!([{"port": 8080}]), list)]);
    let (client, vip) = (&lab.pods[2], "[fd00:96::5]:80");
    eventually("a pod reaches the service", || client.fetch(vip), |answer| answer.starts_with('p'));
    let seen = spread(client, vip, 40);
    assert_eq!(seen.len(), 2, "{seen:?}");
    // An address of version 6 is of use only once its link has looked for doubles.
    eventually("a machine outside does, too", || lab.outside.fetch(vip), |answer| answer.starts_with('p'));
    let own = (0..30).map(|_| lab.pods[0].fetch(vip)).collect::<Vec<_>>();
    assert!(own.iter().any(|answer| answer.starts_with("p0")), "hairpin: {own:?}");
    assert_eq!(client.fetch("[fd00:96::5]:81"), "<refused>");
}

#[test]
fn node_ports_and_external_policies() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("np", 2);
    servers(&lab);
    let spec = |more: Value| {
        let mut all = web(json!({"type": "NodePort", "ports": ports(80, Some(30080))}));
        for (key, value) in more.as_object().expect("an object") {
            all[key] = value.clone();
        }
        service("web", all)
    };
    let proxy = Proxy::start(&lab.node, vec![spec(json!({})), both()]);
    let at = "192.168.77.1:30080";
    eventually("from outside", || lab.outside.fetch(at), |answer| answer.starts_with('p'));
    assert_eq!(lab.outside.fetch(at).split('|').nth(1), Some("10.77.1.1"), "Cluster policy masquerades");
    assert!(lab.node.fetch(at).starts_with('p'), "from the node itself");
    assert_eq!(lab.node.fetch("127.0.0.1:30080"), "<refused>", "not on loopback");

    let remote = [("10.77.1.10", "n1"), ("10.77.1.11", "n2")];
    proxy.send([spec(json!({"externalTrafficPolicy": "Local"})), endpoints("web", "TCP", 8080, &remote)]);
    eventually(
        "Local policy keeps the client's address and the traffic on this node",
        || (0..10).map(|_| lab.outside.fetch(at)).collect::<Vec<_>>(),
        |answers| answers.iter().all(|answer| answer == "p0|192.168.77.2"),
    );
    assert_eq!(spread(&lab.node, at, 40).len(), 2, "the node's own processes get every endpoint");
    assert_eq!(spread(&lab.pods[1], at, 40).len(), 2, "and so do its pods");

    proxy.send([endpoints("web", "TCP", 8080, &[("10.77.1.11", "n2")])]);
    eventually(
        "no endpoint here: outside traffic is dropped",
        || lab.outside.fetch(at),
        |a| a == "<timeout>",
    );
    assert!(lab.node.fetch(at).starts_with("p1"), "inside traffic still goes to the other node");
    proxy.send([endpoints("web", "TCP", 8080, &[])]);
    eventually("no endpoint at all: refused", || lab.outside.fetch(at), |answer| answer == "<refused>");
}

#[test]
fn internal_policy_local() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("int", 3);
    servers(&lab);
    let first = vec![
        service("web", web(json!({"internalTrafficPolicy": "Local"}))),
        endpoints("web", "TCP", 8080, &[("10.77.1.10", "n1"), ("10.77.1.11", "n2")]),
    ];
    let proxy = Proxy::start(&lab.node, first);
    let (client, vip) = (&lab.pods[2], "10.96.0.5:80");
    eventually("up", || client.fetch(vip), |answer| answer.starts_with('p'));
    assert_eq!(spread(client, vip, 10).keys().collect::<Vec<_>>(), ["p0"]);
    proxy.send([endpoints("web", "TCP", 8080, &[("10.77.1.11", "n2")])]);
    eventually("no local endpoint: dropped", || client.fetch(vip), |answer| answer == "<timeout>");
}

#[test]
fn load_balancer_addresses_and_health_checks() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("lb", 2);
    servers(&lab);
    let balanced = |range: &str, policy: &str| {
        service_with_status(
            "web",
            web(
                json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.9"], "ports": ports(80, Some(30080)),
                "externalTrafficPolicy": policy, "healthCheckNodePort": 31000, "loadBalancerSourceRanges": [range]}),
            ),
            json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}),
        )
    };
    let proxy = Proxy::start(&lab.node, vec![balanced("192.168.77.0/24", "Local"), both()]);
    let (vip, external) = ("198.51.100.1:80", "198.51.100.9:80");
    eventually(
        "from an allowed range",
        || lab.outside.fetch(vip),
        |answer| answer.ends_with("|192.168.77.2"),
    );
    assert!(lab.outside.fetch(external).starts_with('p'), "external addresses");
    let check = eventually(
        "the health check answers",
        || http_get(&lab.outside, "192.168.77.1:31000", "/"),
        |text| text.starts_with("HTTP/1.1 200"),
    );
    assert!(
        check.contains("\"localEndpoints\":2") && check.contains("x-load-balancing-endpoint-weight: 2"),
        "{check}"
    );

    proxy.send([balanced("203.0.113.0/24", "Local")]);
    eventually("another range only", || lab.outside.fetch(vip), |answer| answer == "<timeout>");
    assert!(
        lab.outside.fetch(external).starts_with('p'),
        "source ranges concern load balancer addresses only"
    );
    assert!(lab.outside.fetch("192.168.77.1:30080").starts_with('p'), "and not node ports");

    proxy.send([endpoints("web", "TCP", 8080, &[("10.77.1.10", "n2")])]);
    let check = eventually(
        "without local endpoints the check fails",
        || http_get(&lab.outside, "192.168.77.1:31000", "/"),
        |text| text.starts_with("HTTP/1.1 503"),
    );
    assert!(check.contains("\"localEndpoints\":0"), "{check}");
    proxy.send([no_service("web")]);
    eventually("the port closes", || lab.outside.fetch("192.168.77.1:31000"), |answer| answer == "<refused>");

    let health = http_get(&lab.outside, "192.168.77.1:10256", "/healthz");
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"nodeEligible\":true"), "{health}");
    let metrics = http_get(&lab.node, "127.0.0.1:10249", "/metrics");
    assert!(
        metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}"),
        "{metrics}"
    );
}

#[test]
fn session_affinity_survives_a_restart_and_ends_with_its_endpoint() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("sticky", 3);
    servers(&lab);
    let sticky = || {
        service(
            "web",
            web(json!({"type": "NodePort", "ports": ports(80, Some(30080)), "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}})),
        )
    };
    let proxy = Proxy::start(&lab.node, vec![sticky(), both()]);
    let (client, vip) = (&lab.pods[2], "10.96.0.5:80");
    eventually("up", || client.fetch(vip), |answer| answer.starts_with('p'));
    let first = spread(client, vip, 15);
    assert_eq!(first.len(), 1, "one client, one endpoint: {first:?}");
    let chosen = first.keys().next().expect("one").clone();
    drop(proxy);
    let proxy = Proxy::start(&lab.node, vec![sticky(), both()]);
    eventually(
        "the new proxy wrote its table",
        || http_get(&lab.node, "127.0.0.1:10249", "/metrics"),
        |text| text.contains("sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1"),
    );
    assert_eq!(spread(client, vip, 15).keys().collect::<Vec<_>>(), [&chosen], "remembered over a restart");
    assert_eq!(spread(&lab.outside, "192.168.77.1:30080", 15).len(), 1, "node ports too");

    let other = if chosen == "p0" { ("p1", "10.77.1.11") } else { ("p0", "10.77.1.10") };
    proxy.send([endpoints("web", "TCP", 8080, &[(other.1, "n1")])]);
    eventually("the chosen endpoint left", || client.fetch(vip), |answer| answer.starts_with(other.0));
}

#[test]
fn udp_flows_follow_their_endpoints() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("udp", 3);
    servers(&lab);
    let spec = json!({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.6"], "type": "NodePort",
        "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
    let proxy = Proxy::start(
        &lab.node,
        vec![service("dns", spec), endpoints("dns", "UDP", 5353, &[("10.77.1.10", "n1")])],
    );
    let inside = lab.pods[2].udp("0.0.0.0".parse().expect("ip"));
    let outside = lab.outside.udp("0.0.0.0".parse().expect("ip"));
    eventually("up", || exchange(&inside, "10.96.0.6:53"), |answer| answer == "p0");
    assert_eq!(exchange(&outside, "192.168.77.1:30053"), "p0");
    proxy.send([endpoints("dns", "UDP", 5353, &[("10.77.1.11", "n1")])]);
    // The same sockets, so the same flows: without clean-up they would stay with the dead endpoint.
    eventually("the flow moves", || exchange(&inside, "10.96.0.6:53"), |answer| answer == "p1");
    eventually("from outside too", || exchange(&outside, "192.168.77.1:30053"), |answer| answer == "p1");
}

#[test]
fn a_table_that_vanishes_is_written_again_at_the_next_change() {
    if !lab::available() {
        return;
    }
    let lab = Lab::new("heal", 3);
    servers(&lab);
    let proxy = Proxy::start(&lab.node, vec![service("web", web(json!({}))), both()]);
    let (client, vip) = (&lab.pods[2], "10.96.0.5:80");
    eventually("up", || client.fetch(vip), |answer| answer.starts_with('p'));
    lab.node.output("nft", &["delete", "table", "inet", "quarterdeck-proxy"]);
    assert!(!client.fetch(vip).starts_with('p'));
    proxy.send([endpoints("web", "TCP", 8080, &[("10.77.1.10", "n1")])]);
    eventually("healed", || client.fetch(vip), |answer| answer.starts_with("p0"));
}
