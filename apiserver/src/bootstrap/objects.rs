//! Namespaces, priority classes, flow control and the default ServiceCIDR, from `tables/startup.json`.

use machinery::status::StatusError;
use serde::Deserialize;
use serde_json::json;

use super::ensure::{all, ensure as ensure_one, lost_race};
use crate::alloc::Allocators;
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{items, set};

static TABLE: &str = include_str!("../../tables/startup.json");

/// One object of the table.
#[derive(Deserialize)]
struct Row {
    group: String,
    resource: String,
    object: Object,
}

/// Creates what is missing.
pub async fn ensure(cluster: &dyn ClusterWriter, allocators: &Allocators) -> Result<(), StatusError> {
    let rows: Vec<Row> = serde_json::from_str(TABLE).map_err(StatusError::internal)?;
    // Whatever else there is may lie in one of the namespaces.
    let (namespaces, rest): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|r| r.resource == "namespaces");
    let write =
        |row: Row| async move { ensure_one(cluster, &row.group, &row.resource, row.object).await.map(drop) };
    all(namespaces.into_iter().map(write)).await?;
    all(rest.into_iter().map(write)).await?;
    service_networks(cluster, allocators).await
}

/// The networks of the flags as the ServiceCIDR `kubernetes`, marked ready.
async fn service_networks(cluster: &dyn ClusterWriter, allocators: &Allocators) -> Result<(), StatusError> {
    let networks: Vec<String> = allocators.configured().networks.iter().map(ToString::to_string).collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": networks},
    });
    let stored = ensure_one(cluster, "networking.k8s.io", "servicecidrs", object).await?;
    if items(&stored, &["status", "conditions"]).iter().any(|condition| condition["type"] == "Ready") {
        return Ok(());
    }
    let mut ready = stored.as_ref().clone();
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": machinery::time::format_time(jiff::Timestamp::now()),
    });
    set(&mut ready, &["status", "conditions"], json!([condition]));
    match cluster.update_status("networking.k8s.io", "servicecidrs", ready).await {
        Err(error) if !lost_race(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::json::text;

    #[test]
    fn every_row_is_an_object_of_a_served_resource() {
        let rows: Vec<Row> = serde_json::from_str(TABLE).unwrap();
        assert!(rows.len() > 20);
        for row in rows {
            let (group, version) =
                machinery::resources::split_api_version(text(&row.object, &["apiVersion"]));
            assert_eq!(group, row.group);
            let served = machinery::resources::find(group, version, &row.resource);
            assert_eq!(served.map(|resource| resource.kind), Some(text(&row.object, &["kind"])));
        }
    }
}
