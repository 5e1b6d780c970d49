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

/// Runs until the sender of reports is dropped and the last report has arrived, or the object was removed.
pub async fn run(client: Client, mut reports: watch::Receiver<Report>) {
    let mut known = Known::default();
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

/// True once the object was removed. One that is gone already is passed over: another may take its place, as the next
/// mirror of a static pod does.
async fn deliver(client: &Client, report: &Report, known: &mut Known) -> Result<bool, kube::Error> {
    let Some(object) = report.object.clone() else { return Ok(false) };
    let base = known.newest(object);
    if let Some(body) = pod_status::patch(&base, &report.status) {
        match pod_status::send(client, &base, &body).await {
            Ok(answer) => known.answer = Some(Arc::new(answer)),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            // Another pod has taken the name.
            Err(kube::Error::Api(status)) if status.code == 409 && status.message.contains("UID") => {}
            Err(error) => return Err(error),
        }
    } else {
        known.answer = Some(Arc::clone(&base));
    }
    if report.remove {
        pod_status::remove(client, &base).await?;
        return Ok(true);
    }
    Ok(false)
}

/// What is known of the object in the API.
#[derive(Default)]
struct Known {
    /// The answer to our own last write.
    answer: Option<Arc<Pod>>,
    /// The version that the watch showed last.
    shown: u64,
}

impl Known {
    /// Our own last write is newer than what the watch has shown us of that object, unless the store has gone back since, as
    /// one that was restored from a backup has.
    fn newest(&mut self, object: Arc<Pod>) -> Arc<Pod> {
        let shown = version(&object);
        if shown < std::mem::replace(&mut self.shown, shown) {
            self.answer = None;
        }
        let same = |mine: &&Arc<Pod>| spec::uid(mine) == spec::uid(&object) && version(mine) > shown;
        self.answer.as_ref().filter(same).map_or(object.clone(), Arc::clone)
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;

    /// An API that knows the pod of the uid `there` only; what it was asked.
    fn api(asked: Arc<Mutex<Vec<String>>>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let asked = Arc::clone(&asked);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let uid = [&body["metadata"]["uid"], &body["preconditions"]["uid"]];
                let uid = uid.iter().find_map(|uid| uid.as_str()).unwrap_or_default().to_owned();
                asked.lock().push(format!("{method} {uid}"));
                let (code, answer) = match uid.as_str() {
                    "there" => (200, json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}})),
                    "other" => {
                        (409, json!({"kind": "Status", "code": 409, "message": "UID in precondition: other"}))
                    }
                    _ => (404, json!({"kind": "Status", "code": 404, "message": "not found"})),
                };
                Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))
            }
        });
        Client::new(service, "n")
    }

    fn report(uid: &str, remove: bool) -> Report {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}});
        let status = PodStatus { phase: Some("Running".into()), ..Default::default() };
        let object = serde_json::from_value(pod).expect("a pod");
        Report { object: Some(Arc::new(object)), status: Arc::new(status), remove }
    }

    #[test]
    fn what_a_restored_store_shows_counts() {
        let pod = |version: &str| {
            let pod = json!({"metadata": {"uid": "u", "resourceVersion": version}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let mut known = Known::default();
        let mut newest = |shown: &str, answer: Option<&str>| {
            let base = known.newest(pod(shown)).metadata.resource_version.clone();
            known.answer = answer.map(pod).or(known.answer.take());
            base.unwrap_or_default()
        };
        assert_eq!(newest("10", Some("20")), "10");
        assert_eq!(newest("10", None), "20", "our write, which the watch has not shown yet");
        assert_eq!(newest("15", None), "20");
        assert_eq!(newest("20", Some("30")), "20");
        assert_eq!(newest("7", None), "7", "the store went back");
        assert_eq!(newest("8", None), "8");
    }

    #[tokio::test]
    async fn an_object_in_the_place_of_a_lost_one_gets_its_status() {
        let asked = Arc::new(Mutex::new(vec![]));
        let (sender, receiver) = watch::channel(Report::default());
        let task = tokio::spawn(run(api(Arc::clone(&asked)), receiver));
        let reports = [("gone", false), ("other", false), ("there", false), ("gone", true)];
        let mut expected = vec![];
        for (uid, remove) in reports {
            sender.send_replace(report(uid, remove));
            expected.push(format!("PATCH {uid}"));
            if remove {
                // The word of one request is not enough to leave the object behind for ever.
                expected.push(format!("DELETE {uid}"));
            }
            let arrived = async {
                while asked.lock().len() < expected.len() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), arrived).await.unwrap_or_else(|_| panic!("{uid}"));
        }
        assert_eq!(*asked.lock(), expected);
        task.await.expect("it ends once the object is removed");
    }
}
