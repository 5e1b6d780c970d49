//! An APIService for every group-version this server serves itself, kept in step with the definitions of custom kinds
//! (upstream's autoregistration). Tools read them; requests are not routed by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use machinery::resources::priority;
use machinery::status::StatusError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::ensure::lost_race;
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{items, set, text};
use crate::registry::Registry;
use crate::registry::catalog::Snapshot;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
/// Says that the object is ours, and whether it follows definitions (`true`) or the program (`onstart`).
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// How often the catalog is looked at; nothing is read from the store for that.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the objects in step until `shutdown`, once `all_served` says that every definition is served: those of kinds
/// that are not served yet would go, and come again as others.
pub async fn run(
    registry: Arc<Registry>,
    cluster: Arc<dyn ClusterWriter>,
    all_served: impl Fn() -> bool,
    shutdown: CancellationToken,
) {
    let mut done = None;
    loop {
        let is_ready = all_served();
        let snapshot = registry.catalog.snapshot_arc();
        if is_ready && done != Some(snapshot.generation) {
            match reconcile(cluster.as_ref(), &wanted(&snapshot)).await {
                Ok(()) => done = Some(snapshot.generation),
                Err(error) => tracing::debug!(%error, "APIServices are not in step yet; trying again"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Every group-version by its object's name. The aggregator's own group has never had one.
fn wanted(snapshot: &Snapshot) -> BTreeMap<String, Object> {
    let mut wanted = BTreeMap::new();
    for (group, versions) in snapshot.groups().filter(|(group, _)| *group != GROUP) {
        for (version, kinds) in versions {
            let is_custom = kinds.values().all(|kind| kind.is_custom());
            wanted.insert(format!("{version}.{group}"), api_service(group, version, is_custom));
        }
    }
    wanted
}

fn api_service(group: &str, version: &str, is_custom: bool) -> Object {
    let (group_priority, version_priority) = priority(group, version);
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {LABEL: if is_custom { "true" } else { "onstart" }},
        },
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": group_priority,
            "versionPriority": version_priority,
        },
    })
}

async fn reconcile(
    cluster: &dyn ClusterWriter,
    wanted: &BTreeMap<String, Object>,
) -> Result<(), StatusError> {
    for (name, object) in wanted {
        let stored = match cluster.get(GROUP, RESOURCE, "", name).await {
            Some(stored) => stored,
            None => passed(cluster.create(GROUP, RESOURCE, object.clone()).await)?
                .unwrap_or_else(|| Arc::new(object.clone())),
        };
        let is_local = stored["spec"].get("service").is_none();
        if is_local && items(&stored, &["status", "conditions"]).is_empty() {
            passed(cluster.update_status(GROUP, RESOURCE, available(&stored)).await)?;
        }
    }
    for stored in cluster.list(GROUP, RESOURCE, "").await? {
        let follows = text(&stored, &["metadata", "labels", LABEL]) == "true";
        let name = text(&stored, &["metadata", "name"]);
        if follows && !wanted.contains_key(name) {
            passed(cluster.delete(GROUP, RESOURCE, "", name).await)?;
        }
    }
    Ok(())
}

/// Another server may have been quicker with the same write.
fn passed<T>(written: Result<T, StatusError>) -> Result<Option<T>, StatusError> {
    match written {
        Ok(done) => Ok(Some(done)),
        Err(error) if lost_race(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn available(stored: &Object) -> Object {
    let mut object = stored.clone();
    let condition = json!({
        "type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available",
        "lastTransitionTime": machinery::time::format_time(jiff::Timestamp::now()),
    });
    set(&mut object, &["status", "conditions"], json!([condition]));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_upstreams() {
        let apps = api_service("apps", "v1", false);
        assert_eq!(text(&apps, &["metadata", "name"]), "v1.apps");
        assert_eq!(
            (&apps["spec"]["groupPriorityMinimum"], &apps["spec"]["versionPriority"]),
            (&json!(17800), &json!(15))
        );
        let custom = api_service("example.com", "v1", true);
        assert_eq!(custom["spec"]["groupPriorityMinimum"], 1000);
        assert_eq!(custom["metadata"]["labels"][LABEL], "true");
        assert!(!items(&available(&custom), &["status", "conditions"]).is_empty());
    }
}
