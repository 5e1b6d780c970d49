//! EndpointSlice and Endpoints.

use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{self, Errors, ip, named, port_number};
use super::json::{at, same, set};
use super::kind::Kind;
use super::service::validate::endpoint_ip;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "discovery.k8s.io";
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { update: update_slice, check: check_slice, ..Kind::new(GROUP, "endpointslices") },
    Kind { check: check_endpoints, ..Kind::new("", "endpoints") },
];

/// A slice whose meaning changed counts a generation on (upstream bumps it for everything but metadata).
fn update_slice(_: &RequestContext, new: &mut Object, old: &Object) {
    let changed =
        ["endpoints", "ports", "addressType"].iter().any(|field| !same(at(new, &[field]), at(old, &[field])));
    let labels = !same(at(new, &["metadata", "labels"]), at(old, &["metadata", "labels"]));
    let before = at(old, &["metadata", "generation"]).as_i64().unwrap_or_default();
    let now = at(new, &["metadata", "generation"]).as_i64().unwrap_or_default();
    if (changed || labels) && now <= before {
        set(new, &["metadata", "generation"], before + 1);
    }
}

fn check_slice(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let kind = root.get("addressType");
    match kind.text() {
        "" => errors.push(FieldError::required(&kind, "")),
        other if !ADDRESS_TYPES.contains(&other) => {
            errors.push(FieldError::not_supported(&kind, other, &ADDRESS_TYPES));
        }
        _ => {}
    }
    slice_ports(&root.get("ports"), errors);
    let unchanged = old.is_some_and(|old| same(at(old, &["endpoints"]), at(new, &["endpoints"])));
    if !unchanged {
        slice_endpoints(&root.get("endpoints"), kind.text(), errors);
    }
    if let Some(old) = old {
        errors.extend(checks::immutable(&kind, at(old, &["addressType"])));
    }
}

fn slice_ports(ports: &At<'_, '_>, errors: &mut Errors) {
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(ports, ports.len(), PORTS_MAX));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for port in ports.items() {
        let (name, protocol, application) = (port.get("name"), port.get("protocol"), port.get("appProtocol"));
        if name.has() {
            errors.extend(named("label", &name));
        }
        if names.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        names.push(name.text());
        check_protocol(&protocol, errors);
        if application.is_set() {
            errors.extend(named("qualified", &application));
        }
    }
}

fn check_protocol(protocol: &At<'_, '_>, errors: &mut Errors) {
    if !protocol.is_set() || protocol.text().is_empty() {
        errors.push(FieldError::required(protocol, ""));
    } else if !PROTOCOLS.contains(&protocol.text()) {
        errors.push(FieldError::not_supported(protocol, protocol.text(), &PROTOCOLS));
    }
}

fn slice_endpoints(endpoints: &At<'_, '_>, kind: &str, errors: &mut Errors) {
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(endpoints, endpoints.len(), ENDPOINTS_MAX));
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(&addresses, "must contain at least 1 address"));
        } else if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(&addresses, addresses.len(), ADDRESSES_MAX));
        }
        addresses.items().for_each(|address| slice_address(&addresses, &address, kind, errors));
        for (field, rule) in [("nodeName", "subdomain"), ("hostname", "label")] {
            let value = endpoint.get(field);
            if value.is_set() {
                errors.extend(named(rule, &value));
            }
        }
        let topology = endpoint.get("deprecatedTopology");
        if topology.len() > TOPOLOGY_MAX {
            errors.push(FieldError::too_many(&topology, topology.len(), TOPOLOGY_MAX));
        }
        errors.extend(checks::labels(&topology));
        let hints = endpoint.get("hints");
        hint_names(&hints.get("forZones"), "labelvalue", errors);
        hint_names(&hints.get("forNodes"), "subdomain", errors);
    }
}

fn slice_address(list: &At<'_, '_>, address: &At<'_, '_>, kind: &str, errors: &mut Errors) {
    if kind == "FQDN" {
        errors.extend(fqdn(address));
        return;
    }
    if !matches!(kind, "IPv4" | "IPv6") {
        return;
    }
    let Ok(parsed) = address.text().parse::<std::net::IpAddr>() else {
        errors.extend(ip(address));
        return;
    };
    if parsed.is_ipv4() != (kind == "IPv4") {
        errors.push(FieldError::invalid(list, address.text(), format!("must be an {kind} address")));
    }
    errors.extend(endpoint_ip(address));
}

/// A DNS name of at least two labels.
fn fqdn(name: &At<'_, '_>) -> Vec<FieldError> {
    let text = name.text();
    if text.is_empty() {
        return vec![FieldError::required(name, "")];
    }
    let bare = text.strip_suffix('.').unwrap_or(text);
    let texts = machinery::names::dns1123_subdomain(bare);
    if !texts.is_empty() {
        return checks::invalid(&name.with(&Value::from(bare)), texts).collect();
    }
    if bare.contains('.') {
        return Vec::new();
    }
    vec![FieldError::invalid(name, bare, "should be a domain with at least two segments separated by dots")]
}

fn hint_names(hints: &At<'_, '_>, rule: &str, errors: &mut Errors) {
    if hints.len() > HINTS_MAX {
        errors.push(FieldError::too_many(hints, hints.len(), HINTS_MAX));
        return;
    }
    errors.extend(checks::unique(hints, "name"));
    hints.items().for_each(|hint| errors.extend(named(rule, &hint.get("name"))));
}

fn check_endpoints(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    if old.is_some_and(|old| same(at(old, &["subsets"]), at(new, &["subsets"]))) {
        return;
    }
    let root = At::root(new);
    for subset in root.get("subsets").items() {
        let (ready, unready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && unready.is_empty() {
            errors.push(FieldError::required(&subset, "must specify `addresses` or `notReadyAddresses`"));
        }
        ready.items().chain(unready.items()).for_each(|address| check_address(&address, errors));
        let ports = subset.get("ports");
        ports.items().for_each(|port| check_port(&port, ports.len() > 1, errors));
    }
}

fn check_address(address: &At<'_, '_>, errors: &mut Errors) {
    let own = address.get("ip");
    errors.extend(ip(&own));
    for (field, rule) in [("hostname", "label"), ("nodeName", "subdomain")] {
        let value = address.get(field);
        if value.has() {
            errors.extend(named(rule, &value));
        }
    }
    if own.text().parse::<std::net::IpAddr>().is_err() {
        errors.push(FieldError::invalid(&own, own.text(), "must be a valid IP address"));
    }
    errors.extend(endpoint_ip(&own));
}

fn check_port(port: &At<'_, '_>, needs_name: bool, errors: &mut Errors) {
    let (name, application) = (port.get("name"), port.get("appProtocol"));
    if name.has() {
        errors.extend(named("label", &name));
    } else if needs_name {
        errors.push(FieldError::required(&name, ""));
    }
    errors.extend(port_number(&port.get("port")));
    check_protocol(&port.get("protocol"), errors);
    if application.is_set() {
        errors.extend(named("qualified", &application));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices() {
        let check = |endpoints: Value, kind: &str, expected: &[&str]| {
            let mut errors = Errors::new();
            slice_endpoints(&At::placed("endpoints", &endpoints), kind, &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{endpoints}");
        };
        check(json!([{"addresses": ["10.0.0.1"], "nodeName": "n1"}]), "IPv4", &[]);
        check(
            json!([{}]),
            "IPv4",
            &["endpoints[0].addresses: Required value: must contain at least 1 address"],
        );
        check(
            json!([{"addresses": ["fd00::1"]}]),
            "IPv4",
            &[r#"endpoints[0].addresses: Invalid value: "fd00::1": must be an IPv4 address"#],
        );
        check(
            json!([{"addresses": ["127.0.0.1"]}]),
            "IPv4",
            &[
                r#"endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
            ],
        );
        check(json!([{"addresses": ["a.example."]}]), "FQDN", &[]);
        let twice = json!([{"addresses": ["a.b"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}]);
        check(twice, "FQDN", &[r#"endpoints[0].hints.forZones[1].name: Duplicate value: "z""#]);
    }
}
