//! Cluster IPs: claimed by creating the IPAddress object of that name.

use std::net::IpAddr;

use machinery::status::{Reason, StatusError};
use serde_json::json;

use super::pools::{PoolError, ServiceNetworks, candidates};
use crate::contract::{ClusterReader, ClusterWriter, Object};
use crate::kinds::json::{items, text, texts};
use crate::kinds::service::family_of;

pub const GROUP: &str = "networking.k8s.io";
pub const RESOURCE: &str = "ipaddresses";
/// Who made the object, in its label; upstream's allocator uses the same name.
pub const MANAGED_BY: &str = "ipallocator.k8s.io";
/// What this server wrote there up to 0.1; such objects are in stores.
pub const MANAGED_BY_BEFORE: &str = "ipallocator";
/// So many names are tried before a claim gives up, even where the cache says that they are free.
const CLAIMS_MAX: usize = 64;

/// Why an address could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("{0}")]
    Store(StatusError),
}

/// The networks of all ready ServiceCIDR objects; those of the flags before any object exists.
///
/// # Errors
/// When the objects are not known: a network that is being given up must give no more addresses.
pub async fn networks(
    cluster: &dyn ClusterReader,
    configured: &ServiceNetworks,
) -> Result<ServiceNetworks, StatusError> {
    let mut networks = Vec::new();
    for cidr in cluster.list(GROUP, "servicecidrs", "").await? {
        let deleted = !text(&cidr, &["metadata", "deletionTimestamp"]).is_empty();
        let ready =
            |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "False";
        if deleted || items(&cidr, &["status", "conditions"]).iter().any(ready) {
            continue;
        }
        networks.extend(
            texts(&cidr, &["spec", "cidrs"]).filter_map(|network| network.parse::<ipnet::IpNet>().ok()),
        );
    }
    Ok(if networks.is_empty() { configured.clone() } else { ServiceNetworks { networks } })
}

/// Claims this very address for the service.
pub async fn claim_exact(
    cluster: &dyn ClusterWriter,
    networks: &ServiceNetworks,
    service: &Object,
    address: IpAddr,
) -> Result<(), AddressError> {
    networks.check(address)?;
    create(cluster, service, address).await
}

/// Claims any free address of the family.
pub async fn claim_any(
    cluster: &dyn ClusterWriter,
    networks: &ServiceNetworks,
    service: &Object,
    family: &str,
) -> Result<IpAddr, AddressError> {
    let mut claims = 0;
    for network in networks.of(family) {
        for address in candidates(network, rand::random()) {
            if cluster.get(GROUP, RESOURCE, "", &address.to_string()).await.is_some() {
                continue;
            }
            match create(cluster, service, address).await {
                Ok(()) => return Ok(address),
                // Somebody was quicker than the cache: try the next, within bounds.
                Err(AddressError::Pool(PoolError::AddressTaken)) if claims < CLAIMS_MAX => claims += 1,
                Err(error) => return Err(error),
            }
        }
    }
    Err(PoolError::Full.into())
}

/// Any address that would do, for dry runs.
pub fn example(networks: &ServiceNetworks, family: &str) -> Result<IpAddr, PoolError> {
    let network = networks.of(family).next().ok_or(PoolError::Full)?;
    candidates(network, 0).next().ok_or(PoolError::Full)
}

/// Gives the address back; it may be gone already.
pub async fn release(cluster: &dyn ClusterWriter, address: &str) {
    if let Err(error) = cluster.delete(GROUP, RESOURCE, "", address).await
        && error.reason() != Reason::NotFound
    {
        tracing::warn!(%address, %error, "cluster IP not given back; repair will try again");
    }
}

/// Whether the IPAddress object was made for this service.
pub fn belongs_to(address: &Object, service: &Object) -> bool {
    let parent = ["spec", "parentRef"];
    let of = |field: &str| text(&address[parent[0]][parent[1]], &[field]);
    of("resource") == "services"
        && of("namespace") == text(service, &["metadata", "namespace"])
        && of("name") == text(service, &["metadata", "name"])
}

async fn create(cluster: &dyn ClusterWriter, service: &Object, address: IpAddr) -> Result<(), AddressError> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family_of(&address.to_string()),
                "ipaddress.kubernetes.io/managed-by": MANAGED_BY,
            },
        },
        "spec": {
            "parentRef": {
                "resource": "services",
                "namespace": text(service, &["metadata", "namespace"]),
                "name": text(service, &["metadata", "name"]),
            },
        },
    });
    match cluster.create(GROUP, RESOURCE, object).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Reason::AlreadyExists => Err(PoolError::AddressTaken.into()),
        Err(error) => Err(AddressError::Store(error)),
    }
}
