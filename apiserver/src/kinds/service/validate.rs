//! Validation of services. Source of rules and texts: upstream `apis/core/validation`.

use machinery::names;
use machinery::status::FieldError;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

use super::validate_ips;
use super::{is_externally_accessible, is_headless, needs_health_check_port, service_type};
use crate::contract::Object;
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, cidr, ip, port_number, port_number_or_name};
use crate::kinds::json::{at, int, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const AFFINITY_TIMEOUT_MAX_SECS: i64 = 86_400;
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// Everything wrong with the service, `old` being what it was.
pub fn service(service: &Object, old: Option<&Object>, errors: &mut Errors) {
    if let Some(old) = old {
        validate_ips::cluster_ip_changes(service, old, errors);
        validate_ips::family_changes(service, old, errors);
        updates(service, old, errors);
    }
    let root = At::root(service);
    let spec = root.get("spec");
    by_type(service, &spec, errors);
    ports(service, &spec.get("ports"), errors);
    errors.extend(checks::labels(&spec.get("selector")));
    affinity(&spec, errors);
    errors.extend(validate_ips::related_fields(service));
    for external in spec.get("externalIPs").items() {
        match ip(&external) {
            Some(error) => errors.push(error),
            None => errors.extend(endpoint_ip(&external)),
        }
    }
    let kind = spec.get("type");
    if !TYPES.contains(&kind.text()) {
        errors.push(FieldError::not_supported(&kind, kind.text(), &TYPES));
    }
    port_combinations(service, &spec.get("ports"), errors);
    load_balancer(service, &spec, errors);
    traffic(service, &spec, errors);
}

fn by_type(service: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    let kind = service_type(service);
    if spec.get("ports").is_empty() && !is_headless(service) && kind != "ExternalName" {
        errors.push(FieldError::required(&spec.get("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&"spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => {
            validate_ips::forbidden_for_external_name(service, errors);
            let name = spec.get("externalName");
            let bare = name.text().strip_suffix('.').unwrap_or(name.text());
            if bare.is_empty() {
                errors.push(FieldError::required(&name, ""));
            }
            let texts = if bare.is_empty() { Vec::new() } else { names::dns1123_subdomain(bare) };
            errors.extend(texts.into_iter().map(|text| FieldError::invalid(&name, bare, text)));
        }
        _ => {}
    }
}

fn ports(service: &Object, ports: &At<'_, '_>, errors: &mut Errors) {
    let mut seen = FxHashSet::default();
    for port in ports.items() {
        let name = port.get("name");
        if name.has() {
            errors.extend(checks::named("label", &name));
            if !seen.insert(name.text()) {
                errors.push(FieldError::duplicate(&name, name.text()));
            }
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&name, ""));
        }
        errors.extend(port_number(&port.get("port")));
        errors.extend(port_number_or_name(&port.get("targetPort")));
        if service_type(service) == "ClusterIP" && port.get("nodePort").has() {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&port.get("nodePort"), detail));
        }
    }
}

fn port_combinations(_: &Object, ports: &At<'_, '_>, errors: &mut Errors) {
    let (mut node_ports, mut pairs) = (FxHashSet::default(), FxHashSet::default());
    for port in ports.items() {
        let protocol = port.get("protocol").text();
        let node_port = port.get("nodePort");
        if node_port.has() && !node_ports.insert((protocol, node_port.int())) {
            errors.push(FieldError::duplicate(&node_port, node_port.value.clone()));
        }
    }
    for port in ports.items() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int().unwrap_or_default());
        if !pairs.insert((protocol, number)) {
            errors.push(FieldError::duplicate(&port, go_port(protocol, number)));
        }
    }
}

/// Upstream shows the internal port structure, whose field names are Go's.
fn go_port(protocol: &str, port: i64) -> Value {
    json!({"Name": "", "Protocol": protocol, "AppProtocol": null, "Port": port, "TargetPort": 0, "NodePort": 0})
}

fn affinity(spec: &At<'_, '_>, errors: &mut Errors) {
    let (kind, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    match kind.text() {
        "ClientIP" => {
            let detail = "when session affinity type is ClientIP";
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            if let Some(missing) = [&config, &client, &timeout].into_iter().find(|at| !at.is_set()) {
                errors.push(FieldError::required(missing, detail));
            } else if !timeout.int().is_some_and(|secs| (1..=AFFINITY_TIMEOUT_MAX_SECS).contains(&secs)) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_TIMEOUT_MAX_SECS}");
                errors.push(FieldError::invalid(&timeout, timeout.value.clone(), detail));
            }
        }
        "None" if config.is_set() => {
            errors.push(FieldError::forbidden(&config, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

/// An address that could be an endpoint's: not unspecified, loopback, link-local.
pub fn endpoint_ip(at: &At<'_, '_>) -> Option<FieldError> {
    let address: std::net::IpAddr = at.text().parse().ok()?;
    let link_local = match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match address {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let detail = if address.is_unspecified() {
        format!("may not be unspecified ({address})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return None;
    };
    Some(FieldError::invalid(at, at.text(), detail))
}

fn load_balancer(service: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    let is_load_balancer = service_type(service) == "LoadBalancer";
    let ranges = at(service, &["spec", "loadBalancerSourceRanges"]);
    let annotation = text(service, &["metadata", "annotations", SOURCE_RANGES_ANNOTATION]);
    if ranges.as_array().is_some_and(|ranges| !ranges.is_empty()) {
        // The path is upstream's, capital letter and all.
        let place = At::placed("spec.LoadBalancerSourceRanges", ranges);
        if !is_load_balancer {
            errors.push(FieldError::forbidden(&place, ONLY_LOAD_BALANCER));
        }
        place.items().for_each(|range| {
            let trimmed = json!(range.text().trim());
            errors.extend(cidr(&range.with(&trimmed)));
        });
    } else if !annotation.is_empty() {
        let path = format!("metadata.annotations[{SOURCE_RANGES_ANNOTATION}]");
        if !is_load_balancer {
            errors.push(FieldError::forbidden(&path, ONLY_LOAD_BALANCER));
        }
        for range in
            annotation.split(',').map(str::trim).filter(|range| range.parse::<ipnet::IpNet>().is_err())
        {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path, range, detail));
        }
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.is_set() && !is_load_balancer {
        errors.push(FieldError::forbidden(&allocate, ONLY_LOAD_BALANCER));
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() && is_load_balancer {
        errors.extend(checks::named("qualified", &class));
    } else if class.is_set() {
        errors.push(FieldError::forbidden(&class, ONLY_LOAD_BALANCER));
    }
}

fn traffic(service: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    let external = spec.get("externalTrafficPolicy");
    if !is_externally_accessible(service) {
        if external.has() {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(&external, external.text(), detail));
        }
    } else if !external.has() {
        errors.push(FieldError::required(&external, ""));
    } else if !matches!(external.text(), "Cluster" | "Local") {
        errors.push(FieldError::not_supported(&external, external.text(), &["Cluster", "Local"]));
    }
    let health = spec.get("healthCheckNodePort");
    if needs_health_check_port(service) {
        // The port itself is allocated later; only a given one is checked here.
        if health.has() {
            errors.extend(port_number(&health));
        }
    } else if health.has() {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&health, health.value.clone(), detail));
    }
    let internal = spec.get("internalTrafficPolicy");
    if internal.is_set() && !matches!(internal.text(), "Cluster" | "Local") {
        errors.push(FieldError::not_supported(&internal, internal.text(), &["Cluster", "Local"]));
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.is_set() && !DISTRIBUTIONS.contains(&distribution.text()) {
        errors.push(FieldError::not_supported(&distribution, distribution.text(), &DISTRIBUTIONS));
    }
}

fn updates(new: &Object, old: &Object, errors: &mut Errors) {
    if service_type(new) == "LoadBalancer" && service_type(old) == "LoadBalancer" {
        let class = ["spec", "loadBalancerClass"];
        if at(new, &class) != at(old, &class) {
            let value = at(new, &class).clone();
            errors.push(FieldError::invalid(&"spec.loadBalancerClass", value, "may not change once set"));
        }
    }
    let port = ["spec", "healthCheckNodePort"];
    if needs_health_check_port(new) && needs_health_check_port(old) && int(new, &port) != int(old, &port) {
        errors.push(FieldError::forbidden(&"spec.healthCheckNodePort", checks::IMMUTABLE));
    }
}

/// What must hold of `status.loadBalancer`.
pub fn status(service: &Object, errors: &mut Errors) {
    let root = At::root(service);
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    let ingress = balancer.get("ingress");
    if service_type(service) != "LoadBalancer" && !ingress.is_empty() {
        errors.push(FieldError::forbidden(&ingress, "may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    for one in ingress.items() {
        let (address, mode, host) = (one.get("ip"), one.get("ipMode"), one.get("hostname"));
        if address.has() {
            errors.extend(ip(&address));
        }
        if mode.is_set() && !address.has() {
            errors.push(FieldError::forbidden(&mode, "may not be specified when `ip` is not set"));
        } else if !mode.is_set() && address.has() {
            errors.push(FieldError::required(&mode, "must be specified when `ip` is set"));
        } else if mode.is_set() && !matches!(mode.text(), "Proxy" | "VIP") {
            errors.push(FieldError::not_supported(&mode, mode.text(), &["Proxy", "VIP"]));
        }
        if host.has() {
            errors.extend(checks::named("subdomain", &host));
        }
        if host.text().parse::<std::net::IpAddr>().is_ok() {
            errors.push(FieldError::invalid(&host, host.text(), "must be a DNS name, not an IP address"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, expected: &[&str]) {
        let object = json!({ "spec": spec });
        let mut errors = Vec::new();
        service(&object, None, &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{spec}");
    }

    #[test]
    fn creation() {
        let port = json!({"port": 80, "targetPort": 80, "protocol": "TCP"});
        check(json!({"type": "ClusterIP", "sessionAffinity": "None", "ports": [port]}), &[]);
        check(json!({"type": "ClusterIP"}), &["spec.ports: Required value"]);
        check(json!({"type": "ExternalName", "externalName": "a.b."}), &[]);
        check(
            json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "externalTrafficPolicy": "Cluster"}),
            &[r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#],
        );
        check(
            json!({"type": "ClusterIP", "ports": [{"port": 0, "targetPort": "a_b", "name": "x"}, {"port": 1, "targetPort": 1, "name": "x"}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                r#"spec.ports[0].targetPort: Invalid value: "a_b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"#,
                r#"spec.ports[1].name: Duplicate value: "x""#,
            ],
        );
        check(
            json!({"type": "Moon", "ports": [port]}),
            &[
                r#"spec.type: Unsupported value: "Moon": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
            ],
        );
        check(
            json!({"type": "ClusterIP", "ports": [port], "externalIPs": ["127.0.0.1"]}),
            &[
                r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
                // Services with external IPs are reachable from outside and so have a policy by default.
                "spec.externalTrafficPolicy: Required value",
            ],
        );
    }

    #[test]
    fn changes_of_addresses() {
        let of = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 1, "targetPort": 1}]}});
        let mut errors = Vec::new();
        service(&of("10.0.0.2"), Some(&of("10.0.0.1")), &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, [r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#]);
    }
}
