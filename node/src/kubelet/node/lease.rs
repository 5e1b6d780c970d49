//! The node's heartbeat: a Lease renewed every quarter of its duration.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// The namespace of nodes' leases.
const NAMESPACE: &str = "kube-node-lease";
/// Pauses after renewals that failed: the first, and the longest, which is upstream's and short beside any lease.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(7));

/// Builds the lease: kept from `old` where there is one. `node_uid` makes the node its owner.
pub fn lease(
    name: &str,
    node_uid: Option<&str>,
    old: Option<Lease>,
    duration: Duration,
    now: Timestamp,
) -> Lease {
    let mut lease = old.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..Default::default()
        },
        spec: None,
    });
    if let Some(uid) = node_uid {
        lease.metadata.owner_references.get_or_insert_with(|| {
            vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: uid.to_owned(),
                ..Default::default()
            }]
        });
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Renews until the token fires.
pub async fn run(
    client: Client,
    name: String,
    node_uid: Option<String>,
    duration: Duration,
    shutdown: CancellationToken,
) {
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    let mut known: Option<Lease> = None;
    let mut retry = RETRY.0;
    loop {
        let pause = match renew(&api, &name, node_uid.as_deref(), known.take(), duration).await {
            Ok(lease) => {
                known = Some(lease);
                retry = RETRY.0;
                duration / 4
            }
            Err(error) => {
                tracing::warn!(%error, "the node's lease could not be renewed");
                let pause = retry;
                retry = (retry * 2).min(RETRY.1);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn renew(
    api: &Api<Lease>,
    name: &str,
    node_uid: Option<&str>,
    known: Option<Lease>,
    duration: Duration,
) -> Result<Lease, kube::Error> {
    let old = match known {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let exists = old.is_some();
    let fresh = lease(name, node_uid, old, duration, Timestamp::now());
    if exists {
        api.replace(name, &PostParams::default(), &fresh).await
    } else {
        api.create(&PostParams::default(), &fresh).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_keeps_the_object() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let first = lease("n", Some("u"), None, Duration::from_secs(40), at(1));
        let second = lease("n", Some("other"), Some(first.clone()), Duration::from_secs(40), at(2));
        assert_eq!(second.metadata, first.metadata);
        let spec = second.spec.expect("a spec");
        assert_eq!(spec.renew_time, Some(MicroTime(at(2))));
        assert_eq!(spec.lease_duration_seconds, Some(40));
    }
}
