//! Sends one pod's statuses, newest only, trying again while the API is away; at the pod's end removes its API
//! object after the last status has arrived.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Client;
use tokio::sync::watch;

use crate::kubelet::cluster::pod_status;
use crate::kubelet::pod::spec;

/// Pause after the API did not take a status: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What is to be reported.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The API's object: the pod, or the mirror of a static one. `None` while there is none.
    pub object: Option<Arc<Pod>>,
    /// Its status.
    pub status: Arc<PodStatus>,
    /// Remove the object once the status has arrived.
    pub remove: bool,
}

/// Runs until the sender of reports is dropped and the last report has arrived, or the object is gone.
pub async fn run(client: Client, mut reports: watch::Receiver<Report>) {
    let mut known: Option<Arc<Pod>> = None;
    let mut pause = RETRY.0;
    loop {
        let report = reports.borrow_and_update().clone();
        // In a box: between reports a pod does not hold the room that a request takes.
        match Box::pin(deliver(&client, &report, &mut known)).await {
            Ok(true) => return,
            Ok(false) => {
                pause = RETRY.0;
                if reports.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a pod's status was not taken");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}

/// True once the object is gone.
async fn deliver(
    client: &Client,
    report: &Report,
    known: &mut Option<Arc<Pod>>,
) -> Result<bool, kube::Error> {
    let Some(object) = report.object.clone() else { return Ok(false) };
    // Our own last write is newer than what the watch has shown us of that object.
    let base = match known {
        Some(mine) if newer(mine, &object) => Arc::clone(mine),
        _ => object,
    };
    if let Some(body) = pod_status::patch(&base, &report.status) {
        match pod_status::send(client, &base, &body).await {
            Ok(answer) => *known = Some(Arc::new(answer)),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(true),
            // Another pod has taken the name.
            Err(kube::Error::Api(status)) if status.code == 409 && status.message.contains("UID") => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
    } else {
        *known = Some(Arc::clone(&base));
    }
    if report.remove {
        pod_status::remove(client, &base).await?;
        return Ok(true);
    }
    Ok(false)
}

fn newer(a: &Pod, b: &Pod) -> bool {
    let version =
        |p: &Pod| p.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    spec::uid(a) == spec::uid(b) && version(a) > version(b)
}
