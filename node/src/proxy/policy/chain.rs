//! The rules of one isolated pod.

use super::peers::{Direction, PeerSet, set_name, sets_of};
use crate::network::view::{Family, PodView, PolicyView, PortMatch, Rule};

/// Rules for traffic of `pod` in one direction under all `policies` that isolate it; the last one drops.
pub fn rules(pod: &PodView, policies: &[&PolicyView], direction: Direction, family: Family) -> Vec<String> {
    let mut out = Vec::new();
    for policy in policies {
        let rules = direction.rules(policy).unwrap_or_default();
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| !rule.never) {
            let sets = |which| {
                sets_of(direction, rule)(which)
                    .then(|| set_name(&policy.key, direction, number, which, family))
            };
            let (ip, far) = far_side(direction, family);
            if let Some(set) = sets(PeerSet::Named) {
                out.push(format!("{ip} daddr . meta l4proto . th dport @{set} return"));
            }
            let Some(ports) = ports(rule, direction, pod) else { continue };
            let mut who: Vec<String> = Vec::new();
            for which in [PeerSet::Pods, PeerSet::Blocks] {
                who.extend(sets(which).map(|set| format!("{ip} {far} @{set} ")));
            }
            if rule.peers.is_empty() {
                who.push(String::new());
            }
            out.extend(who.into_iter().map(|who| format!("{who}{ports}return")));
        }
    }
    out.push("drop".to_owned());
    out
}

/// nft's names of the header and of the address of the other side.
fn far_side(direction: Direction, family: Family) -> (&'static str, &'static str) {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    match direction {
        Direction::Ingress => (ip, "saddr"),
        Direction::Egress => (ip, "daddr"),
    }
}

/// The match on numbered ports: empty when every port matches, `None` when no port can match.
fn ports(rule: &Rule, direction: Direction, pod: &PodView) -> Option<String> {
    if rule.ports.is_empty() {
        return Some(String::new());
    }
    let mut ranges: Vec<(&str, u16, u16)> = Vec::new();
    for port in &rule.ports {
        let protocol = port.protocol.as_str();
        match &port.ports {
            PortMatch::Any => ranges.push((protocol, 0, u16::MAX)),
            PortMatch::Range(first, last) => ranges.push((protocol, *first, *last)),
            // The names of the pod's own ports; those of other pods stand in a set with their addresses.
            PortMatch::Named(name) if direction == Direction::Ingress => {
                let own =
                    pod.named_ports.iter().filter(|own| own.name == *name && own.protocol == port.protocol);
                ranges.extend(own.map(|own| (protocol, own.port, own.port)));
            }
            PortMatch::Named(_) => {}
        }
    }
    let ranges = merge(ranges.into_iter().filter(|(_, first, last)| first <= last).collect());
    if ranges.is_empty() {
        return None;
    }
    let spell = |(protocol, first, last): &(&str, u16, u16)| match first == last {
        true => format!("{protocol} . {first}"),
        false => format!("{protocol} . {first}-{last}"),
    };
    let all = ranges.iter().map(spell).collect::<Vec<_>>().join(", ");
    Some(format!("meta l4proto . th dport {{ {all} }} "))
}

/// Ranges of one anonymous set must not overlap.
fn merge(mut ranges: Vec<(&str, u16, u16)>) -> Vec<(&str, u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(&str, u16, u16)> = Vec::new();
    for (protocol, first, last) in ranges {
        match merged.last_mut() {
            Some(before) if before.0 == protocol && first <= before.2.saturating_add(1) => {
                before.2 = before.2.max(last);
            }
            _ => merged.push((protocol, first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::json;

    use super::*;
    use crate::network::view::{Key, NamedPort, Protocol};

    fn check(spec: serde_json::Value, direction: Direction, expected: &[&str]) {
        let object = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        let object: NetworkPolicy = serde_json::from_value(object).expect("a policy");
        let policy = PolicyView::from_api(&object);
        let pod = PodView {
            key: Key::new("ns", "pod"),
            node: "n".into(),
            ips: vec![],
            labels: Default::default(),
            named_ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        };
        let got = rules(&pod, &[&policy], direction, Family::V4);
        // The hash in names is of no interest here.
        let hash = regex::Regex::new("@np4-([a-z0-9-]+)-[0-9a-f]{8}-ns/p").expect("a pattern");
        let got: Vec<_> = got.iter().map(|rule| hash.replace(rule, "@$1").into_owned()).collect();
        assert_eq!(got, expected, "{object:?}");
    }

    #[test]
    fn rules_of_each_shape() {
        let (ingress, egress) = (Direction::Ingress, Direction::Egress);
        check(json!({"ingress": []}), ingress, &["drop"]);
        check(json!({"ingress": [{}]}), ingress, &["return", "drop"]);
        check(
            json!({"ingress": [{"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
                "ports": [{"port": 80}, {"port": 79, "endPort": 90}, {"protocol": "UDP"}, {"port": "http"}]}]}),
            ingress,
            &[
                "ip saddr @i0-pods meta l4proto . th dport { tcp . 79-90, tcp . 8080, udp . 0-65535 } return",
                "ip saddr @i0-blocks meta l4proto . th dport { tcp . 79-90, tcp . 8080, udp . 0-65535 } return",
                "drop",
            ],
        );
        check(json!({"ingress": [{"ports": [{"port": "unknown"}]}]}), ingress, &["drop"]);
        check(
            json!({"egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}, {"port": 53}]}]}),
            egress,
            &[
                "ip daddr . meta l4proto . th dport @e0-ports return",
                "ip daddr @e0-pods meta l4proto . th dport { tcp . 53 } return",
                "drop",
            ],
        );
        check(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "bad"}}]}]}), ingress, &["drop"]);
    }
}
