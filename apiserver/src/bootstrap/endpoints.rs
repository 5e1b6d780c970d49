//! The service `kubernetes` and its endpoints: the addresses of all live servers.

use jiff::Timestamp;
use machinery::status::StatusError;
use serde_json::{Value, json};

use super::Config;
use super::ensure::lost_race;
use super::identity::{Server, live_servers};
use crate::alloc::{Allocators, pools::nth_address};
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{at, set};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Creates the service when it is missing, on the first address of the service network.
pub async fn ensure_service(
    cluster: &dyn ClusterWriter,
    allocators: &Allocators,
    config: &Config,
) -> Result<(), StatusError> {
    if cluster.get("", "services", NAMESPACE, NAME).await.is_some() {
        return Ok(());
    }
    let Some(network) = allocators.configured().networks.first() else { return Ok(()) };
    let ip = nth_address(network, 1).to_string();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
            "ports": [{
                "name": "https", "protocol": "TCP",
                "port": config.service_port, "targetPort": config.secure_port,
            }],
        },
    });
    match cluster.create("", "services", service).await {
        Err(error) if !lost_race(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Makes Endpoints and EndpointSlice list the live servers.
pub async fn reconcile(cluster: &dyn ClusterWriter, _: &Config) -> Result<(), StatusError> {
    let mut servers = live_servers(cluster, Timestamp::now()).await?;
    // A loopback address means another machine to everybody else; validation refuses it for that reason.
    servers.retain(|server| !server.address.ip().is_loopback());
    if servers.is_empty() {
        return Ok(());
    }
    write(cluster, "", "endpoints", endpoints(&servers), &["subsets"]).await?;
    let fields = ["endpoints", "ports"];
    write(cluster, "discovery.k8s.io", "endpointslices", slice(&servers), &fields).await
}

async fn write(
    cluster: &dyn ClusterWriter,
    group: &str,
    resource: &str,
    wanted: Object,
    fields: &[&str],
) -> Result<(), StatusError> {
    let written = match cluster.get(group, resource, NAMESPACE, NAME).await {
        None => cluster.create(group, resource, wanted).await,
        Some(stored) => {
            if fields.iter().all(|field| covers(at(&stored, &[field]), at(&wanted, &[field]))) {
                return Ok(());
            }
            let mut changed = stored.as_ref().clone();
            for field in fields {
                set(&mut changed, &[field], wanted[field].clone());
            }
            cluster.update(group, resource, changed).await
        }
    };
    match written {
        Err(error) if !lost_race(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether the stored value says what is wanted; defaults may have been added to it.
fn covers(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| stored.get(key).is_some_and(|own| covers(own, value)))
        }
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len() && stored.iter().zip(wanted).all(|(own, value)| covers(own, value))
        }
        (stored, wanted) => stored == wanted,
    }
}

fn port(servers: &[Server]) -> u16 {
    servers.first().map_or(0, |server| server.address.port())
}

/// The servers that share the first one's family: a slice has one, and the lists must agree.
fn ips(servers: &[Server]) -> Vec<String> {
    let v6 = servers.first().is_some_and(|server| server.address.is_ipv6());
    let same = servers.iter().filter(|server| server.address.is_ipv6() == v6);
    let mut ips: Vec<String> = same.map(|server| server.address.ip().to_string()).collect();
    ips.dedup();
    ips
}

fn endpoints(servers: &[Server]) -> Object {
    let addresses: Vec<Value> = ips(servers).into_iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": addresses,
            "ports": [{"name": "https", "port": port(servers), "protocol": "TCP"}],
        }],
    })
}

fn slice(servers: &[Server]) -> Object {
    let ips = ips(servers);
    let family = if ips.first().is_some_and(|ip| ip.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> =
        ips.into_iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port(servers), "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_hold_all_servers() {
        let servers: Vec<Server> = ["10.0.0.1:6443", "10.0.0.2:6443"]
            .iter()
            .map(|address| Server { address: address.parse().unwrap() })
            .collect();
        assert_eq!(
            endpoints(&servers)["subsets"][0]["addresses"],
            json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])
        );
        assert_eq!(slice(&servers)["endpoints"][1]["addresses"], json!(["10.0.0.2"]));
        assert!(covers(&json!([{"a": 1, "b": 2}]), &json!([{"a": 1}])));
        assert!(!covers(&json!([{"a": 1}, {"a": 2}]), &json!([{"a": 1}])));
    }
}
