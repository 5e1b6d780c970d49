//! Network policies between pods of one bridge, with real sockets.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use node::network::feed::{Event, Kind};
use serde_json::{Value, json};

use crate::{
    lab::{self, Lab, eventually, namespace, no_policy, pod, pod_v4, pod_v6, policy},
    proxy::Proxy,
};

/// Pods 0 (app=web, ns), 1 (app=client, ns), 2 (app=other, in namespace `far` with team=blue).
fn start(name: &str) -> (Lab, Proxy) {
    let lab = Lab::new(name, 3);
    for (number, namespace) in lab.pods.iter().enumerate() {
        for port in [8080, 8081, 9090] {
            namespace.serve_tcp(&format!("{}:{port}", pod_v4(number)), &format!("p{number}"));
        }
        namespace.serve_tcp(&format!("[{}]:8080", pod_v6(number)), &format!("p{number}"));
    }
    let proxy = Proxy::start(&lab.node, world());
    (lab, proxy)
}

fn world() -> Vec<Event> {
    let named = json!([{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}]);
    vec![
        namespace("ns", json!({})),
        namespace("far", json!({"team": "blue"})),
        pod("ns", 0, json!({"app": "web"}), named.clone()),
        pod("ns", 1, json!({"app": "client"}), json!([])),
        pod("far", 2, json!({"app": "other"}), named),
    ]
}

/// Which of the (client pod, server pod, port) can connect. Waits until the answer is the expected one.
fn check(lab: &Lab, what: &str, expected: &[(usize, usize, u16, bool)]) {
    let look = || {
        let reach = |&(from, to, port, _): &(usize, usize, u16, bool)| {
            let answer = lab.pods[from].fetch(&format!("{}:{port}", pod_v4(to)));
            (from, to, port, answer.starts_with('p'))
        };
        expected.iter().map(reach).collect::<Vec<_>>()
    };
    eventually(what, look, |seen| seen.as_slice() == expected);
}

fn web(spec: Value) -> Event {
    let mut all = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    for (key, value) in spec.as_object().expect("an object") {
        all[key] = value.clone();
    }
    policy("p", all)
}

#[test]
fn ingress() {
    if !lab::available() {
        return;
    }
    let (lab, proxy) = start("ingress");
    check(&lab, "without policies everything is open", &[(1, 0, 8080, true), (2, 0, 8080, true)]);

    proxy.send([web(json!({}))]);
    check(
        &lab,
        "isolated",
        &[(1, 0, 8080, false), (2, 0, 8080, false), (0, 1, 8080, true), (1, 2, 8080, true)],
    );
    assert!(
        lab.node.fetch(&format!("{}:8080", pod_v4(0))).starts_with('p'),
        "the node always reaches its pods"
    );
    assert!(!lab.pods[1].fetch(&format!("[{}]:8080", pod_v6(0))).starts_with('p'), "IPv6 is isolated too");

    proxy.send([web(json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
        "ports": [{"port": 8080}]}]}))]);
    check(&lab, "by label and port", &[(1, 0, 8080, true), (1, 0, 8081, false), (2, 0, 8080, false)]);
    assert!(lab.pods[1].fetch(&format!("[{}]:8080", pod_v6(0))).starts_with('p'), "IPv6 is allowed alike");

    proxy
        .send([web(json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}],
        "ports": [{"port": "admin"}, {"port": 8080, "endPort": 8081}]}]}))]);
    check(
        &lab,
        "by namespace, named port and range",
        &[(2, 0, 9090, true), (2, 0, 8080, true), (2, 0, 8081, true), (1, 0, 9090, false)],
    );
    proxy.send([namespace("far", json!({"team": "red"}))]);
    check(&lab, "the namespace's labels change", &[(2, 0, 9090, false)]);

    proxy.send([web(
        json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.77.0.0/16", "except": ["10.77.1.12/32"]}}]}]}),
    )]);
    check(&lab, "by range with exception", &[(1, 0, 9090, true), (2, 0, 9090, false)]);

    proxy.send([
        web(json!({})),
        policy("more", json!({"podSelector": {}, "ingress": [{"ports": [{"port": 8081}]}]})),
    ]);
    check(
        &lab,
        "policies add up",
        &[(1, 0, 8081, true), (2, 0, 8081, true), (1, 0, 8080, false), (0, 1, 8080, false)],
    );

    proxy.send([no_policy("p"), no_policy("more")]);
    check(&lab, "open again", &[(1, 0, 8080, true), (2, 0, 9090, true)]);
}

#[test]
fn what_was_isolated_stays_so_until_the_next_proxy_knows_policies() {
    if !lab::available() {
        return;
    }
    let (lab, proxy) = start("restart");
    proxy.send([web(json!({}))]);
    check(&lab, "isolated", &[(1, 0, 8080, false), (0, 1, 8080, true)]);
    drop(proxy);
    // The server is away for longer than policies are waited for where there are none, and tells services first.
    let next = Proxy::silent(&lab.node);
    std::thread::sleep(Duration::from_secs(11));
    next.send([Event::Synced(Kind::Service), Event::Synced(Kind::Slice)]);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let answer = lab.pods[1].fetch(&format!("{}:8080", pod_v4(0)));
        assert!(!answer.starts_with('p'), "open while policies are not known: {answer}");
    }
    next.send(world());
    next.send([web(json!({"ingress": [{"ports": [{"port": 8080}]}]}))]);
    next.send([Kind::Policy, Kind::Namespace, Kind::Pod].map(Event::Synced));
    check(&lab, "as the policy is now", &[(1, 0, 8080, true), (1, 0, 8081, false)]);
}

#[test]
fn egress() {
    if !lab::available() {
        return;
    }
    let (lab, proxy) = start("egress");
    lab.outside.serve_tcp("192.168.77.2:7000", "o");
    proxy.send([web(json!({"policyTypes": ["Egress"]}))]);
    check(&lab, "isolated", &[(0, 1, 8080, false), (1, 0, 8080, true)]);
    assert_eq!(lab.pods[0].fetch("192.168.77.2:7000"), "<timeout>");

    proxy.send([web(json!({"policyTypes": ["Egress"], "egress": [
        {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "other"}}}], "ports": [{"port": "http"}]},
        {"to": [{"ipBlock": {"cidr": "192.168.77.0/24"}}]}]}))]);
    check(&lab, "named port of another pod", &[(0, 2, 8080, true), (0, 2, 9090, false), (0, 1, 8080, false)]);
    assert!(lab.pods[0].fetch("192.168.77.2:7000").starts_with("o|"));

    // A peer that appears later is allowed without touching the policy.
    proxy.send([pod("ns", 1, json!({"app": "other"}), json!([{"name": "http", "containerPort": 8081}]))]);
    check(&lab, "a new peer", &[(0, 1, 8081, true), (0, 1, 8080, false)]);
}

#[test]
fn established_connections_stay_and_services_are_seen_as_their_endpoints() {
    if !lab::available() {
        return;
    }
    let (lab, proxy) = start("established");
    lab.pods[0].serve_echo(&format!("{}:7", pod_v4(0)));
    // Connections are tracked from the first table on.
    eventually(
        "the table is there",
        || lab.node.output("nft", &["list", "tables"]),
        |t| t.contains("quarterdeck-proxy"),
    );
    let mut stream = lab.pods[1].connect(&format!("{}:7", pod_v4(0))).expect("no policy yet");
    let mut echo = |text: &[u8]| {
        let mut back = vec![0; text.len()];
        stream.write_all(text).and_then(|()| stream.read_exact(&mut back)).map(|()| back)
    };
    assert_eq!(echo(b"before").expect("open"), b"before");
    proxy.send([
        web(json!({})),
        lab::service(
            "web",
            json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]}),
        ),
        lab::endpoints("web", "TCP", 8080, &[("10.77.1.10", "n1")]),
    ]);
    check(&lab, "new connections are refused", &[(1, 0, 8080, false)]);
    assert_eq!(echo(b"after").expect("established connections stay"), b"after");
    assert_eq!(lab.pods[1].fetch("10.96.0.5:80"), "<timeout>", "a service is no way around");
    assert_eq!(lab.pods[0].fetch("10.96.0.5:80"), "p0|10.77.1.1", "a pod always reaches itself");
    proxy.send([web(json!({"ingress": [{"from": [{"podSelector": {}}]}]}))]);
    eventually("allowed through the service", || lab.pods[1].fetch("10.96.0.5:80"), |a| a.starts_with("p0"));
}
