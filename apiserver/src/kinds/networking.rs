//! Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR.

use machinery::names;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::at::At;
use super::checks::{self, Errors, cidr, ip, port_number, port_number_or_name};
use super::json::{at, has, is_set, items, set, texts};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "networking.k8s.io";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: [&str; 2] = ["/..", "/."];
const CONTROLLER_MAX: usize = 250;
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_ingress, ..Kind::new(GROUP, "ingresses") },
    Kind { check: check_ingress_status, ..Kind::sub(GROUP, "ingresses", "status") },
    Kind { check: check_class, ..Kind::new(GROUP, "ingressclasses") },
    Kind { default: default_policy, check: check_policy, ..Kind::new(GROUP, "networkpolicies") },
    Kind { check: check_address, name: address_name, ..Kind::new(GROUP, "ipaddresses") },
    Kind { check: check_service_cidr, ..Kind::new(GROUP, "servicecidrs") },
];

fn check_ingress(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (default, rules) = (spec.get("defaultBackend"), spec.get("rules"));
    if rules.is_empty() && !default.is_set() {
        let shown = if rules.is_set() { rules.value.clone() } else { Value::Null };
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&spec, shown, detail));
    }
    if default.is_set() {
        backend(&default, errors);
    }
    for rule in rules.items() {
        host(&rule.get("host"), errors);
        let http = rule.get("http");
        let paths = http.get("paths");
        if http.is_set() && paths.is_empty() {
            errors.push(FieldError::required(&paths, ""));
        }
        paths.items().for_each(|path| ingress_path(&path, errors));
    }
    for tls in spec.get("tls").items() {
        for name in tls.get("hosts").items() {
            let rule = if name.text().contains('*') { "wildcard" } else { "subdomain" };
            errors.extend(checks::named(rule, &name));
        }
        let secret = tls.get("secretName");
        if secret.has() {
            errors.extend(checks::named("subdomain", &secret));
        }
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        errors.extend(checks::named("subdomain", &class));
    }
    let annotated = at(new, &["metadata", "annotations", CLASS_ANNOTATION]);
    if old.is_none() && class.is_set() && annotated.is_string() && annotated != class.value {
        let place = format!("annotations.{CLASS_ANNOTATION}");
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(FieldError::invalid(&place, annotated.clone(), detail));
    }
}

fn host(host: &At<'_, '_>, errors: &mut Errors) {
    if !host.has() {
        return;
    }
    if host.text().parse::<std::net::IpAddr>().is_ok() {
        errors.push(FieldError::invalid(host, host.text(), "must be a DNS name, not an IP address"));
    }
    let rule = if host.text().contains('*') { "wildcard" } else { "subdomain" };
    errors.extend(checks::named(rule, host));
}

fn ingress_path(at: &At<'_, '_>, errors: &mut Errors) {
    let (kind, path) = (at.get("pathType"), at.get("path"));
    if !kind.is_set() {
        errors.push(FieldError::required(&kind, "pathType must be specified"));
        return;
    }
    let text = path.text();
    let mut refuse = |detail: String| errors.push(FieldError::invalid(&path, text, detail));
    match kind.text() {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                refuse("must be an absolute path".to_owned());
            }
            BAD_SEQUENCES
                .iter()
                .filter(|bad| text.contains(**bad))
                .for_each(|bad| refuse(format!("must not contain '{bad}'")));
            BAD_SUFFIXES
                .iter()
                .filter(|bad| text.ends_with(**bad))
                .for_each(|bad| refuse(format!("cannot end with '{bad}'")));
        }
        "ImplementationSpecific" if !text.is_empty() && !text.starts_with('/') => {
            refuse("must be an absolute path".to_owned());
        }
        "ImplementationSpecific" => {}
        other => errors.push(FieldError::not_supported(&kind, other, &PATH_TYPES)),
    }
    backend(&at.get("backend"), errors);
}

fn backend(at: &At<'_, '_>, errors: &mut Errors) {
    let (resource, service) = (at.get("resource"), at.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => {
            errors.push(FieldError::invalid(at, "", "cannot set both resource and service backends"));
        }
        (true, false) => object_reference(&resource, errors),
        (false, true) => service_backend(at, &service, errors),
        (false, false) => errors.push(FieldError::invalid(at, "", "resource or service backend is required")),
    }
}

fn service_backend(place: &At<'_, '_>, service: &At<'_, '_>, errors: &mut Errors) {
    let (name, port) = (service.get("name"), service.get("port"));
    if !name.has() {
        errors.push(FieldError::required(&name, ""));
    } else {
        errors.extend(checks::named("label", &name));
    }
    let (port_name, number) = (port.get("name"), port.get("number"));
    match (port_name.has(), number.has()) {
        (true, true) => {
            errors.push(FieldError::invalid(place, "", "cannot set both port name & port number"))
        }
        (true, false) => errors.extend(checks::invalid(&port_name, names::port_name(port_name.text()))),
        (false, true) => errors.extend(port_number(&number)),
        (false, false) => errors.push(FieldError::required(place, "port name or number is required")),
    }
}

fn object_reference(at: &At<'_, '_>, errors: &mut Errors) {
    let group = at.get("apiGroup");
    if group.is_set() {
        errors.extend(checks::named("subdomain", &group));
    }
    for field in ["kind", "name"] {
        let part = at.get(field);
        if part.has() {
            errors.extend(checks::named("pathsegment", &part));
        } else {
            errors.push(FieldError::required(&part, ""));
        }
    }
}

fn check_ingress_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    for ingress in balancer.get("ingress").items() {
        if ingress.get("ip").has() {
            errors.extend(ip(&ingress.get("ip")));
        }
        host(&ingress.get("hostname"), errors);
    }
}

fn check_class(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    if let Some(old) = old {
        errors.extend(checks::immutable(&spec.get("controller"), at(old, &["spec", "controller"])));
    }
    let controller = spec.get("controller");
    if controller.text().len() > CONTROLLER_MAX {
        errors.push(FieldError::too_long(&controller, "", CONTROLLER_MAX));
    }
    errors.extend(checks::domain_prefixed_path(&controller));
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    object_reference(&parameters, errors);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        "Namespace" if !namespace.is_set() => {
            errors.push(FieldError::required(&namespace, "`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => errors.extend(checks::named("label", &namespace)),
        "Cluster" if namespace.is_set() => {
            errors.push(FieldError::forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        "" => errors.push(FieldError::required(&scope, "")),
        other => errors.push(FieldError::not_supported(&scope, other, &["Cluster", "Namespace"])),
    }
}

/// A policy that does not say otherwise is about ingress, and about egress when it has such rules.
fn default_policy(policy: &mut Object) {
    if has(policy, &["spec", "policyTypes"]) || !is_set(policy, &["spec"]) {
        return;
    }
    let egress = has(policy, &["spec", "egress"]);
    let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    set(policy, &["spec", "policyTypes"], types);
}

fn check_policy(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    errors.extend(checks::label_selector(&spec.get("podSelector")));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port, errors));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer, errors));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&types, types.value.clone(), detail));
        return;
    }
    for kind in types.items().filter(|kind| !matches!(kind.text(), "Ingress" | "Egress")) {
        errors.push(FieldError::not_supported(&kind, kind.text(), &["Ingress", "Egress"]));
    }
}

fn policy_port(at: &At<'_, '_>, errors: &mut Errors) {
    let (protocol, port, end) = (at.get("protocol"), at.get("port"), at.get("endPort"));
    if protocol.is_set() && !matches!(protocol.text(), "TCP" | "UDP" | "SCTP") {
        errors.push(FieldError::not_supported(&protocol, protocol.text(), &["TCP", "UDP", "SCTP"]));
    }
    if port.is_set() {
        errors.extend(port_number_or_name(&port));
    }
    let Some(last) = end.int() else { return };
    let detail = match port.value {
        Value::Null => "may not be specified when `port` is not specified",
        Value::String(_) => "may not be specified when `port` is non-numeric",
        _ => {
            let first = port.int().unwrap_or_default();
            if last < first {
                let detail = "must be greater than or equal to `port`";
                errors.push(FieldError::invalid(&end, first, detail));
            }
            errors.extend(port_number(&end));
            return;
        }
    };
    errors.push(FieldError::invalid(&end, last, detail));
}

fn policy_peer(at: &At<'_, '_>, errors: &mut Errors) {
    let selectors = ["podSelector", "namespaceSelector"];
    let count = selectors.iter().filter(|name| at.get(name).is_set()).count();
    selectors.iter().for_each(|name| errors.extend(checks::label_selector(&at.get(name))));
    let block = at.get("ipBlock");
    if block.is_set() {
        ip_block(&block, errors);
        if count > 0 {
            errors.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer"));
        }
    } else if count == 0 {
        errors.push(FieldError::required(at, "must specify a peer"));
    }
}

fn ip_block(block: &At<'_, '_>, errors: &mut Errors) {
    let whole = block.get("cidr");
    if !whole.has() {
        errors.push(FieldError::required(&whole, ""));
        return;
    }
    errors.extend(cidr(&whole));
    let Ok(network) = whole.text().parse::<ipnet::IpNet>() else { return };
    for except in block.get("except").items() {
        errors.extend(cidr(&except));
        if let Ok(hole) = except.text().parse::<ipnet::IpNet>()
            && (!network.contains(&hole) || network.prefix_len() >= hole.prefix_len())
        {
            errors.push(FieldError::invalid(&except, except.text(), "must be a strict subset of `cidr`"));
        }
    }
}

fn address_name(name: &str, _: bool) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

fn check_address(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let parent = spec.get("parentRef");
    if !parent.is_set() {
        errors.push(FieldError::required(&parent, ""));
        return;
    }
    for field in ["resource", "name"] {
        if !parent.get(field).has() {
            errors.push(FieldError::required(&parent.get(field), ""));
        } else {
            errors.extend(checks::named("pathsegment", &parent.get(field)));
        }
    }
    if let Some(old) = old {
        errors.extend(checks::immutable(&parent, at(old, &["spec", "parentRef"])));
    }
}

fn check_service_cidr(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let list = spec.get("cidrs");
    if list.is_empty() {
        errors.push(FieldError::required(&list, "at least one CIDR required"));
        return;
    }
    if list.len() > 2 {
        errors.push(FieldError::invalid(&list, spec.value.clone(), "may only hold up to 2 values"));
        return;
    }
    list.items().for_each(|one| errors.extend(cidr(&one)));
    let families: Vec<bool> = list.items().map(|one| one.text().contains(':')).collect();
    if families.len() == 2 && families[0] == families[1] {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&list, list.value.clone(), detail));
    }
    let Some(old) = old else { return };
    let before: Vec<&str> = texts(old, &["spec", "cidrs"]).collect();
    let changed = |(index, one): &(usize, At<'_, '_>)| before.get(*index).is_some_and(|b| *b != one.text());
    for (_, one) in list.items().enumerate().filter(changed) {
        errors.push(FieldError::invalid(&one, one.text(), checks::IMMUTABLE));
    }
    if items(old, &["spec", "cidrs"]).len() > list.len() {
        errors.push(FieldError::invalid(&list, list.value.clone(), checks::IMMUTABLE));
    }
}
