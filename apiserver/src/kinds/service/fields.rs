//! Defaults of services and the fields that follow each other: `clusterIP` and `clusterIPs`, values that a client
//! left out of an update, values that a change of type makes meaningless.

use serde_json::{Value, json};

use super::{
    is_external_name, is_externally_accessible, needs_health_check_port, needs_node_ports, same_list,
    service_type,
};
use crate::contract::Object;
use crate::kinds::json::{
    at, int, is_set, is_zero, items, items_mut, keep, remove, set, set_if_null, set_if_zero, text,
};

const AFFINITY_TIMEOUT_SECS: i64 = 10_800;

/// Defaults that depend on other fields.
pub fn default(service: &mut Object) {
    affinity(service);
    for port in items_mut(service, &["spec", "ports"]) {
        if is_zero(at(port, &["targetPort"])) {
            let own = at(port, &["port"]).clone();
            set(port, &["targetPort"], own);
        }
    }
    if is_externally_accessible(service) {
        set_if_zero(service, &["spec", "externalTrafficPolicy"], "Cluster");
    }
    if matches!(service_type(service), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set_if_null(service, &["spec", "internalTrafficPolicy"], "Cluster");
    }
    if service_type(service) == "LoadBalancer" {
        set_if_null(service, &["spec", "allocateLoadBalancerNodePorts"], true);
        for ingress in items_mut(service, &["status", "loadBalancer", "ingress"]) {
            if !text(ingress, &["ip"]).is_empty() {
                set_if_null(ingress, &["ipMode"], "VIP");
            }
        }
    }
}

fn affinity(service: &mut Object) {
    match text(service, &["spec", "sessionAffinity"]) {
        "None" => drop(remove(service, &["spec", "sessionAffinityConfig"])),
        "ClientIP" => {
            let timeout = ["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
            if at(service, &timeout).is_null() {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_TIMEOUT_SECS}});
                set(service, &["spec", "sessionAffinityConfig"], config);
            }
        }
        _ => {}
    }
}

/// Old clients only know `clusterIP`: the list follows it.
pub fn normalize_cluster_ips(new: &mut Object, old: Option<&Object>) {
    let ip = text(new, &["spec", "clusterIP"]).to_owned();
    let listed = !items(new, &["spec", "clusterIPs"]).is_empty();
    let Some(old) = old else {
        if !ip.is_empty() && !listed {
            set(new, &["spec", "clusterIPs"], json!([ip]));
        }
        return;
    };
    let old_ip = text(old, &["spec", "clusterIP"]);
    if !listed && old_ip == ip {
        keep(new, old, &["spec", "clusterIPs"]);
    }
    if old_ip == ip || !same_list(old, new, "clusterIPs") {
        return;
    }
    if ip.is_empty() {
        remove(new, &["spec", "clusterIPs"]);
    } else {
        set(new, &["spec", "clusterIPs"], json!([ip]));
    }
}

/// Allocated values that an update left out stay what they were.
pub fn patch_allocated(new: &mut Object, old: &Object) {
    if !is_external_name(old) && !is_external_name(new) {
        if text(new, &["spec", "clusterIP"]).is_empty() {
            keep(new, old, &["spec", "clusterIP"]);
        }
        if items(new, &["spec", "clusterIPs"]).is_empty() {
            keep(new, old, &["spec", "clusterIPs"]);
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        patch_node_ports(new, old);
    }
    let unset = int(new, &["spec", "healthCheckNodePort"]).unwrap_or_default() == 0;
    if unset && needs_health_check_port(old) && needs_health_check_port(new) {
        keep(new, old, &["spec", "healthCheckNodePort"]);
    }
}

fn patch_node_ports(new: &mut Object, old: &Object) {
    let node_port = |port: &Value| int(port, &["nodePort"]).filter(|port| *port != 0);
    let used_now: Vec<i64> = items(new, &["spec", "ports"]).iter().filter_map(node_port).collect();
    let old_ports = items(old, &["spec", "ports"]);
    for port in items_mut(new, &["spec", "ports"]) {
        if node_port(port).is_some() {
            continue;
        }
        let same_name = |candidate: &&Value| text(candidate, &["name"]) == text(port, &["name"]);
        let known = old_ports.iter().rev().find(same_name).and_then(node_port);
        if let Some(known) = known.filter(|known| !used_now.contains(known)) {
            set(port, &["nodePort"], known);
        }
    }
}

/// Values that were only there for the old type, and that the client did not touch, go with it.
pub fn drop_type_dependent(new: &mut Object, old: &Object) {
    if !is_external_name(old) && is_external_name(new) {
        if same_list(old, new, "clusterIPs") {
            remove(new, &["spec", "clusterIP"]);
            remove(new, &["spec", "clusterIPs"]);
        }
        if same_list(old, new, "ipFamilies") {
            remove(new, &["spec", "ipFamilies"]);
        }
        drop_if_same(new, old, "ipFamilyPolicy");
        drop_if_same(new, old, "internalTrafficPolicy");
    }
    if needs_node_ports(old) && !needs_node_ports(new) && same_node_ports(old, new) {
        for port in items_mut(new, &["spec", "ports"]) {
            remove(port, &["nodePort"]);
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) {
        drop_if_same(new, old, "healthCheckNodePort");
    }
    if service_type(old) == "LoadBalancer" && service_type(new) != "LoadBalancer" {
        drop_if_same(new, old, "allocateLoadBalancerNodePorts");
        drop_if_same(new, old, "loadBalancerClass");
        remove(new, &["status", "loadBalancer", "ingress"]);
    }
    if is_externally_accessible(old) && !is_externally_accessible(new) {
        drop_if_same(new, old, "externalTrafficPolicy");
    }
}

fn drop_if_same(new: &mut Object, old: &Object, field: &str) {
    if is_set(new, &["spec", field]) && at(new, &["spec", field]) == at(old, &["spec", field]) {
        remove(new, &["spec", field]);
    }
}

fn same_node_ports(old: &Object, new: &Object) -> bool {
    let ports = |service: &Object| {
        let mut ports: Vec<i64> =
            items(service, &["spec", "ports"]).iter().filter_map(|port| int(port, &["nodePort"])).collect();
        ports.sort_unstable();
        ports.retain(|port| *port != 0);
        ports
    };
    ports(old) == ports(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut new: Value, old: Value, expected: Value) {
        drop_type_dependent(&mut new, &old);
        patch_allocated(&mut new, &old);
        normalize_cluster_ips(&mut new, Some(&old));
        assert_eq!(new, expected);
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a", "nodePort": 30000}]}});
        check(
            json!({"spec": {"type": "NodePort", "ports": [{"name": "a"}, {"name": "b"}]}}),
            old.clone(),
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a", "nodePort": 30000}, {"name": "b"}]}}),
        );
        check(
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a", "nodePort": 30000}]}}),
            old.clone(),
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a"}]}}),
        );
        check(
            json!({"spec": {"type": "ExternalName", "externalName": "x", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}}),
            old,
            json!({"spec": {"type": "ExternalName", "externalName": "x"}}),
        );
    }

    #[test]
    fn defaults() {
        let mut service =
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}});
        default(&mut service);
        assert_eq!(
            service,
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 80}],
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true}})
        );
    }
}
