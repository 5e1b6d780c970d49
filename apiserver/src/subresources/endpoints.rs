//! Which addresses requests to pods and services may be passed on to. Pure.
//!
//! Whoever may write EndpointSlices must not be able to send this server to places of their choice: only what is said
//! to be a pod, and is one, is behind a service. Source: `pkg/registry/core/{pod/strategy,service/storage/storage}.go`.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::table::cells::{int, list, text};

/// The bits of an IPv6 address that say it is of its link alone.
const LINK_LOCAL_MASK: u16 = 0xffc0;
const LINK_LOCAL: u16 = 0xfe80;

/// A place behind a service's port, and the pod that is said to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub pod: String,
}

/// The ready places behind the port of that name, from a namespace's slices.
pub fn behind(slices: &[Arc<Value>], namespace: &str, service: &str, port_name: &str) -> Vec<Endpoint> {
    let of_service =
        slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let mut found = Vec::new();
    for slice in of_service {
        let port = list(slice, "ports").iter().find(|p| text(p, "name") == port_name);
        let Some(port) = port.and_then(|p| u16::try_from(int(p, "port")).ok()) else { continue };
        let ready = list(slice, "endpoints").iter().filter(|e| e["conditions"]["ready"] != false);
        for endpoint in ready.filter(|e| text(e, "targetRef.namespace") == namespace) {
            let pod = text(endpoint, "targetRef.name");
            let hosts = list(endpoint, "addresses").iter().filter_map(Value::as_str);
            found.extend(hosts.map(|host| Endpoint { host: host.to_owned(), port, pod: pod.to_owned() }));
        }
    }
    found
}

/// Whether the pod is at the address.
pub fn is_at(pod: &Value, host: &str) -> bool {
    list(pod, "status.podIPs").iter().any(|ip| ip["ip"] == host)
}

/// The pod's address.
pub fn address_of(pod: &Value) -> &str {
    match list(pod, "status.podIPs").first() {
        Some(first) => text(first, "ip"),
        None => text(&pod["status"], "podIP"),
    }
}

/// Whether the text is an address of one machine among others: not this one's own, nor of its link alone.
pub fn is_global_unicast(host: &str) -> bool {
    match host.parse().map(|ip: IpAddr| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => {
            let special = ip.is_broadcast() || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            !special && !ip.is_link_local()
        }
        Ok(IpAddr::V6(ip)) => {
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            !special && ip.segments()[0] & LINK_LOCAL_MASK != LINK_LOCAL
        }
        Err(_) => false,
    }
}

/// The name of a service's port that a request means: a number stands for its name; without one, the first. `None` when
/// the service has no such port.
pub fn port_name<'a>(service: &'a Value, wanted: &str) -> Option<&'a str> {
    let mut ports = list(&service["spec"], "ports").iter();
    let number = wanted.parse::<i64>();
    let fits = |p: &&Value| match number {
        Ok(number) => int(p, "port") == number,
        Err(_) => wanted.is_empty() || text(p, "name") == wanted,
    };
    ports.find(fits).map(|p| text(p, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_this_machine_and_its_link_are_none() {
        for (host, expected) in [
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("203.0.113.9", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(is_global_unicast(host), expected, "{host}");
        }
    }

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "80a", "port": 81}]}});
        for (wanted, expected) in [
            ("", Some("web")),
            ("80", Some("web")),
            ("81", Some("80a")),
            ("80a", Some("80a")),
            ("82", None),
            ("x", None),
        ] {
            assert_eq!(port_name(&service, wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn only_pods_that_are_there_count() {
        let pod = |name: &str| json!({"namespace": "n", "name": name});
        let slices = [Arc::new(json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": pod("a")},
                {"addresses": ["10.0.0.2"], "targetRef": pod("b"), "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
                {"addresses": ["10.0.0.4"], "targetRef": {"namespace": "other", "name": "a"}},
            ],
        }))];
        let a = Endpoint { host: "10.0.0.1".to_owned(), port: 8080, pod: "a".to_owned() };
        assert_eq!(behind(&slices, "n", "s", "web"), std::slice::from_ref(&a));
        assert!(behind(&slices, "n", "s", "").is_empty() && behind(&slices, "n", "t", "web").is_empty());
        let at = |ip: &str| json!({"status": {"podIPs": [{"ip": "10.0.0.8"}, {"ip": ip}]}});
        assert!(is_at(&at("10.0.0.1"), &a.host) && !is_at(&at("10.0.0.9"), &a.host));
    }
}
