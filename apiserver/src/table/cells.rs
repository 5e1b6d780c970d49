//! Small functions that make one cell of one object. Pure.
//!
//! Source of every rule: upstream's `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use machinery::time::{duration::human as human_duration, parse_rfc3339};
use serde_json::Value;

/// Description of the name column.
pub const NAME_DESCRIPTION: &str = "Name must be unique within a namespace.";
/// Items shown before a list is cut.
const LIST_LEN_MAX: usize = 3;

/// Walks a path of object keys.
pub fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |v, key| v.get(key).unwrap_or(&Value::Null))
}

/// The text at a path, empty when there is none.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

pub fn int(object: &Value, path: &str) -> i64 {
    at(object, path).as_i64().unwrap_or(0)
}

pub fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).as_array().map_or(&[], Vec::as_slice)
}

/// The text, or a stand-in when it is empty.
pub fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// How long ago a timestamp was, as kubectl writes ages.
pub fn age_of(timestamp: &str, now: Timestamp) -> String {
    match parse_rfc3339(timestamp) {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// The object's own age.
pub fn age(object: &Value, now: Timestamp) -> String {
    age_of(text(object, "metadata.creationTimestamp"), now)
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector as one line.
pub fn selector(selector: &Value) -> String {
    match machinery::selector::Labels::from_value(selector) {
        Ok(labels) if labels.is_nothing() => "<none>".to_owned(),
        Ok(labels) => or(&labels.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names of containers, or what else is asked of each, joined.
pub fn containers(pod_spec: &Value, field: &str) -> String {
    let all: Vec<&str> = list(pod_spec, "containers").iter().map(|c| text(c, field)).collect();
    all.join(",")
}

/// `3`, or `50%`.
pub fn int_or_percent(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "N/A".to_owned(),
        other => other.to_string(),
    }
}

pub fn yes_no(value: &Value) -> &'static str {
    match value {
        Value::Bool(true) => "True",
        Value::Bool(false) => "False",
        _ => "<unset>",
    }
}

/// The status of a condition, if the object has it.
pub fn condition<'a>(object: &'a Value, condition_type: &str) -> Option<&'a Value> {
    list(object, "status.conditions").iter().find(|c| c["type"] == condition_type)
}

pub fn has_condition(object: &Value, condition_type: &str) -> bool {
    condition(object, condition_type).is_some_and(|c| c["status"] == "True")
}

/// Joins up to three items and says how many more there are.
pub fn cut_list(items: &[String], empty: &str) -> String {
    if items.is_empty() {
        return empty.to_owned();
    }
    let shown = items[..items.len().min(LIST_LEN_MAX)].join(",");
    if items.len() > LIST_LEN_MAX {
        return format!("{shown} + {} more...", items.len() - LIST_LEN_MAX);
    }
    shown
}

/// `RWO,ROX`.
pub fn access_modes(modes: &[Value]) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    let found: Vec<&str> = modes.iter().map(short).collect();
    let order = ["RWO", "ROX", "RWX", "RWOP"];
    order.into_iter().filter(|m| found.contains(m)).collect::<Vec<_>>().join(",")
}

/// Addresses of a load balancer.
pub fn load_balancer(object: &Value) -> String {
    let address = |i: &Value| or(text(i, "ip"), text(i, "hostname")).to_owned();
    let mut all: Vec<String> =
        list(object, "status.loadBalancer.ingress").iter().map(address).filter(|a| !a.is_empty()).collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

pub fn service_external_ip(service: &Value) -> String {
    let external: Vec<&str> = list(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "spec.type") {
        "ExternalName" => text(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let balancer = load_balancer(service);
            let all: Vec<&str> =
                Some(balancer.as_str()).filter(|b| !b.is_empty()).into_iter().chain(external).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub fn service_ports(service: &Value) -> String {
    let port = |p: &Value| match int(p, "nodePort") {
        0 => format!("{}/{}", int(p, "port"), text(p, "protocol")),
        node => format!("{}:{node}/{}", int(p, "port"), text(p, "protocol")),
    };
    let all: Vec<String> = list(service, "spec.ports").iter().map(port).collect();
    or(&all.join(","), "<none>").to_owned()
}

pub fn ingress_hosts(ingress: &Value) -> String {
    let rules = list(ingress, "spec.rules");
    let hosts: Vec<&str> =
        rules.iter().take(LIST_LEN_MAX).map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    if hosts.is_empty() {
        return "*".to_owned();
    }
    if rules.len() > LIST_LEN_MAX {
        return format!("{} + {} more...", hosts.join(","), rules.len() - LIST_LEN_MAX);
    }
    hosts.join(",")
}

/// A name, marked when an annotation makes it the default.
pub fn name_or_default(object: &Value, annotation: &str) -> String {
    let name = text(object, "metadata.name");
    if at(object, "metadata.annotations").get(annotation).is_some_and(|v| v == "true") {
        return format!("{name} (default)");
    }
    name.to_owned()
}

pub fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = list(subset, "addresses").iter().map(|a| text(a, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.map(str::to_owned));
            continue;
        }
        for port in ports {
            let port = int(port, "port");
            all.extend(list(subset, "addresses").iter().map(|a| match text(a, "ip") {
                six if six.contains(':') => format!("[{six}]:{port}"),
                four => format!("{four}:{port}"),
            }));
        }
    }
    cut_list(&all, "<none>")
}

pub fn slice_ports(slice: &Value) -> String {
    let port = |p: &Value| match p["port"].as_i64() {
        Some(number) => number.to_string(),
        None => or(text(p, "name"), "*").to_owned(),
    };
    let all: Vec<String> = list(slice, "ports").iter().map(port).collect();
    cut_list(&all, "<unset>")
}

pub fn slice_endpoints(slice: &Value) -> String {
    let addresses = list(slice, "endpoints").iter().flat_map(|e| list(e, "addresses"));
    let all: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    cut_list(&all, "<unset>")
}

/// Who a role binding binds: users, groups or service accounts.
pub fn subjects(binding: &Value, kind: &str) -> String {
    let of_kind = list(binding, "subjects").iter().filter(|s| s["kind"] == kind);
    let name = |s: &Value| match kind {
        "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
        _ => text(s, "name").to_owned(),
    };
    of_kind.map(name).collect::<Vec<_>>().join(", ")
}

pub fn csr_condition(csr: &Value) -> String {
    let has = |t: &str| list(csr, "status.conditions").iter().any(|c| c["type"] == t);
    let mut status = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !text(csr, "status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    status
}

pub fn node_status(node: &Value) -> String {
    let mut status = match condition(node, "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

pub fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in at(node, "metadata.labels").as_object().into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == "kubernetes.io/role" => roles.extend(value.as_str().filter(|v| !v.is_empty())),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

pub fn node_address(node: &Value, address_type: &str) -> String {
    let found = list(node, "status.addresses").iter().find(|a| a["type"] == address_type);
    found.map_or("<none>", |a| text(a, "address")).to_owned()
}

/// Quota lines: requests, or limits.
pub fn quota(quota: &Value, limits: bool) -> String {
    let hard = at(quota, "status.hard").as_object();
    let line = |(name, hard): (&String, &Value)| {
        let is_limit = name.starts_with("limits.");
        (is_limit == limits).then(|| {
            let used = at(quota, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
    };
    hard.into_iter().flatten().filter_map(line).collect::<Vec<_>>().join(", ")
}

/// When an event was last seen, or first.
pub fn event_time(event: &Value, last: bool, now: Timestamp) -> String {
    let first = or(text(event, "firstTimestamp"), text(event, "eventTime"));
    let time = if last {
        let series = text(event, "series.lastObservedTime");
        or(series, or(text(event, "lastTimestamp"), first))
    } else {
        first
    };
    age_of(time, now)
}

pub fn event_count(event: &Value) -> i64 {
    match event["series"]["count"].as_i64() {
        Some(count) => count,
        None => int(event, "count").max(1),
    }
}

pub fn event_source(event: &Value) -> String {
    let component = or(text(event, "source.component"), text(event, "reportingComponent"));
    match or(text(event, "source.host"), text(event, "reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_cut() {
        let items: Vec<String> = (1..=5).map(|i| i.to_string()).collect();
        assert_eq!(cut_list(&items, "<none>"), "1,2,3 + 2 more...");
        assert_eq!(cut_list(&[], "<none>"), "<none>");
    }

    #[test]
    fn services() {
        let service = json!({"spec":{"type":"LoadBalancer","externalIPs":["1.2.3.4"],
            "ports":[{"port":80,"protocol":"TCP","nodePort":30080},{"port":53,"protocol":"UDP"}]},
            "status":{"loadBalancer":{"ingress":[{"ip":"9.9.9.9"}]}}});
        assert_eq!(service_external_ip(&service), "9.9.9.9,1.2.3.4");
        assert_eq!(service_ports(&service), "80:30080/TCP,53/UDP");
    }

    #[test]
    fn nodes() {
        let node = json!({"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}},
            "spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"True"}]}});
        assert_eq!(
            (node_status(&node), node_roles(&node)),
            ("Ready,SchedulingDisabled".into(), "control-plane".into())
        );
    }
}
