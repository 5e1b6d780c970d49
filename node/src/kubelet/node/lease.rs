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

/// Renews until the token fires. `node_uid` tells who the node is now: one that was removed comes back as another, and a
/// lease of the first is taken along with it.
pub async fn run(
    client: Client,
    name: String,
    node_uid: impl Fn() -> Option<String>,
    duration: Duration,
    shutdown: CancellationToken,
) {
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    let mut known: Option<Lease> = None;
    let mut retry = RETRY.0;
    loop {
        let pause = match renew(&api, &name, node_uid().as_deref(), known.take(), duration).await {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_taken_away_is_made_for_the_node_as_it_is_now() {
        let (made, mut owners) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let made = made.clone();
            async move {
                let is_new = request.method() == Method::POST;
                let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let mut answer = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": ""});
                if is_new {
                    answer = serde_json::from_slice(&body).unwrap_or_default();
                    let owner = answer["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
                    // The test may have seen enough.
                    let _ = made.send(owner.to_owned());
                }
                let code = if is_new { 201 } else { 404 };
                Response::builder().status(code).body(Body::from(Value::to_string(&answer).into_bytes()))
            }
        });
        let node = Arc::new(AtomicUsize::new(1));
        let now = Arc::clone(&node);
        let uid = move || Some(now.load(Ordering::SeqCst).to_string());
        let client = Client::new(service, "default");
        tokio::spawn(run(client, "n".into(), uid, Duration::from_secs(40), CancellationToken::new()));
        for expected in ["1", "2"] {
            node.store(expected.parse().expect("a number"), Ordering::SeqCst);
            let owner = tokio::time::timeout(Duration::from_secs(3600), owners.recv()).await;
            assert_eq!(owner.expect("a lease is made").as_deref(), Some(expected));
        }
    }

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
