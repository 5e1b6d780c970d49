//! The lease by which the servers of a cluster know each other.

use jiff::Timestamp;
use machinery::status::{Reason, StatusError};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Config;
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{int, set, text};

const GROUP: &str = "coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
/// Where the server is reached: `address:port`.
const ADDRESS: &str = "quarterdeck.dev/advertise-address";
/// How often a live server renews its lease.
pub const RENEW_SECS: u64 = 5;
/// A server whose lease is older is taken for dead. Three renewals may fail before that.
const DURATION_SECS: i64 = 16;

/// A live server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    pub address: std::net::SocketAddr,
}

/// Writes or renews the lease of this server.
pub async fn renew(cluster: &dyn ClusterWriter, config: &Config) -> Result<(), StatusError> {
    let name = name(config);
    let now = machinery::time::format_micro(Timestamp::now());
    let stored = cluster.get(GROUP, "leases", NAMESPACE, &name).await;
    let written = match stored {
        Some(stored) => {
            let mut renewed = stored.as_ref().clone();
            set(&mut renewed, &["spec", "renewTime"], now);
            set(&mut renewed, &["metadata", "annotations", ADDRESS], address(config));
            cluster.update(GROUP, "leases", renewed).await
        }
        None => cluster.create(GROUP, "leases", lease(config, &name, &now)).await,
    };
    match written {
        // The cache may lag behind our own last write; the next beat sees it.
        Err(error) if matches!(error.reason(), Reason::Conflict | Reason::AlreadyExists) => Ok(()),
        other => other.map(drop),
    }
}

/// Gives the lease up, so that the others need not wait for it to run out.
pub async fn resign(cluster: &dyn ClusterWriter, config: &Config) {
    if let Err(error) = cluster.delete(GROUP, "leases", NAMESPACE, &name(config)).await {
        tracing::debug!(%error, "the lease of this server stays until it runs out");
    }
}

/// The servers whose lease holds, sorted.
pub async fn live_servers(cluster: &dyn ClusterWriter, now: Timestamp) -> Result<Vec<Server>, StatusError> {
    let leases = cluster.list(GROUP, "leases", NAMESPACE).await?;
    let mut servers: Vec<Server> = leases.iter().filter_map(|lease| live(lease, now)).collect();
    servers.sort();
    servers.dedup();
    Ok(servers)
}

fn live(lease: &Object, now: Timestamp) -> Option<Server> {
    if text(lease, &["metadata", "labels", LABEL]) != "kube-apiserver" {
        return None;
    }
    let renewed: Timestamp = text(lease, &["spec", "renewTime"]).parse().ok()?;
    let duration = int(lease, &["spec", "leaseDurationSeconds"])?;
    let alive = now.as_second() - renewed.as_second() < duration;
    let address = text(lease, &["metadata", "annotations", ADDRESS]).parse().ok()?;
    alive.then_some(Server { address })
}

fn lease(config: &Config, name: &str, now: &str) -> Object {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {LABEL: "kube-apiserver", "kubernetes.io/hostname": config.server_name},
            "annotations": {ADDRESS: address(config)},
        },
        "spec": {
            "holderIdentity": format!("{name}_{}", uuid::Uuid::new_v4()),
            "leaseDurationSeconds": DURATION_SECS,
            "acquireTime": now,
            "renewTime": now,
        },
    })
}

fn address(config: &Config) -> String {
    std::net::SocketAddr::new(config.advertise_address, config.secure_port).to_string()
}

/// Stable across restarts of one server.
fn name(config: &Config) -> String {
    let hash = Sha256::digest(format!("{}\0{}", config.server_name, address(config)));
    format!("apiserver-{}", hex::encode(&hash[..13]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_run_out() {
        let lease = |renewed: &str| {
            json!({"metadata": {"labels": {LABEL: "kube-apiserver"}, "annotations": {ADDRESS: "10.0.0.1:6443"}},
                "spec": {"renewTime": renewed, "leaseDurationSeconds": 16}})
        };
        let now = "2026-01-01T00:00:30Z".parse().unwrap();
        assert!(live(&lease("2026-01-01T00:00:20.000000Z"), now).is_some());
        assert!(live(&lease("2026-01-01T00:00:10.000000Z"), now).is_none());
        assert!(live(&json!({}), now).is_none());
    }
}
