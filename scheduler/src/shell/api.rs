//! The calls by which decisions become true: bindings, conditions, evictions, volume reservations, events.
//!
//! Owns the requests and their bodies. Stateless: everything it needs comes with the command.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::core::scheduler::{Nominate, PodRef};
use crate::core::volumes::VolumePlan;

use super::kinds::SELECTED_NODE;
use super::wire;

/// Between looks at claims that are being bound.
const CLAIM_POLL: Duration = Duration::from_secs(1);
/// The longest note an event may have.
const NOTE_MAX: usize = 1024;
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// How API servers say that a deletion's precondition names another uid.
const OTHER_UID: [&str; 2] = ["UID in the precondition", "UID in precondition"];

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot build the request for {path}: {source}")]
    Request { path: String, source: http::Error },
    #[error("{}", message_of(.0))]
    Api(#[from] kube::Error),
    #[error("binding volumes: claim {namespace}/{name} was not bound within {timeout_secs} s")]
    ClaimTimeout { namespace: String, name: String, timeout_secs: i64 },
    #[error("binding volumes: provisioning failed for PVC {0:?}")]
    ProvisioningFailed(String),
}

/// The server's own words, without the client's frame around them.
fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl ApiError {
    /// The object is not there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Api(kube::Error::Api(status)) if status.code == 404)
    }

    /// An object of that name is there, which is not the one that was meant.
    fn is_another(&self) -> bool {
        let ApiError::Api(kube::Error::Api(status)) = self else { return false };
        status.code == 409 && OTHER_UID.iter().any(|words| status.message.contains(words))
    }

    /// The change is not allowed.
    fn is_invalid(&self) -> bool {
        matches!(self, ApiError::Api(kube::Error::Api(status)) if status.code == 422)
    }

    /// Trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            ApiError::Api(kube::Error::Api(status)) => matches!(status.code, 409 | 429 | 500 | 503 | 504),
            ApiError::Api(_) => true,
            _ => false,
        }
    }
}

/// The API, as the scheduler uses it.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl Api {
    /// Calls through this client.
    pub fn new(client: kube::Client) -> Self {
        Api { client }
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: http::Method,
        path: String,
        content: &'static str,
        body: Option<Value>,
    ) -> Result<T, ApiError> {
        let bytes = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
        let request = http::Request::builder()
            .method(method)
            .uri(&path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, content)
            .body(bytes)
            .map_err(|source| ApiError::Request { path, source })?;
        Ok(self.client.request(request).await?)
    }

    async fn post(&self, path: String, body: Value) -> Result<(), ApiError> {
        self.call::<IgnoredAny>(http::Method::POST, path, "application/json", Some(body)).await.map(drop)
    }

    async fn patch(&self, path: String, content: &'static str, body: Value) -> Result<(), ApiError> {
        self.call::<IgnoredAny>(http::Method::PATCH, path, content, Some(body)).await.map(drop)
    }

    /// Binds a pod to a node.
    pub async fn bind(&self, pod: &PodRef, node: &str) -> Result<(), ApiError> {
        let path = format!("{}/binding", pod_path(pod));
        let body = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        });
        self.post(path, body).await
    }

    /// Writes the PodScheduled condition and the nomination.
    pub async fn report(
        &self,
        pod: &PodRef,
        condition: Option<(&str, &str)>,
        nominate: &Nominate,
        now: &str,
    ) -> Result<(), ApiError> {
        let mut status = serde_json::Map::new();
        if let Some((reason, message)) = condition {
            let condition = condition_of(pod, "PodScheduled", "False", (reason, message), now);
            status.insert("conditions".to_owned(), json!([condition]));
        }
        if let Nominate::Set(node) = nominate {
            let value = if node.is_empty() { Value::Null } else { json!(node) };
            status.insert("nominatedNodeName".to_owned(), value);
        }
        let body = json!({"metadata": {"uid": pod.uid}, "status": status});
        self.patch(format!("{}/status", pod_path(pod)), "application/strategic-merge-patch+json", body).await
    }

    /// Marks a victim and deletes it: this very pod, and not one that has taken its name since.
    pub async fn evict(&self, victim: &PodRef, message: &str, now: &str) -> Result<(), ApiError> {
        let why = (super::convert::PREEMPTED, message);
        let condition = condition_of(victim, "DisruptionTarget", "True", why, now);
        let condition = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
        let path = format!("{}/status", pod_path(victim));
        match self.patch(path, "application/strategic-merge-patch+json", condition).await {
            Err(error) if error.is_not_found() => return Ok(()),
            // Refused for the uid, which our API server takes for a forbidden change: the deletion says what is there.
            Err(error) if !error.is_another() && !error.is_invalid() => return Err(error),
            _ => {}
        }
        let options = json!({"preconditions": {"uid": victim.uid}});
        let deleted: Result<IgnoredAny, _> =
            self.call(http::Method::DELETE, pod_path(victim), "application/json", Some(options)).await;
        match deleted.map(drop) {
            Err(error) if error.is_not_found() || error.is_another() => Ok(()),
            other => other,
        }
    }

    /// A pod as it stands; `None` when it is gone.
    pub async fn pod(&self, pod: &PodRef) -> Result<Option<wire::Pod>, ApiError> {
        match self.call(http::Method::GET, pod_path(pod), "application/json", None).await {
            Ok(pod) => Ok(Some(pod)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Any object as JSON.
    pub async fn get(&self, path: String) -> Result<Value, ApiError> {
        self.call(http::Method::GET, path, "application/json", None).await
    }

    /// Reserves volumes, asks for others to be made, and waits until all claims are bound.
    pub async fn bind_volumes(&self, node: &str, plan: &VolumePlan) -> Result<(), ApiError> {
        const MERGE: &str = "application/merge-patch+json";
        for (volume, claim, version) in &plan.bind {
            let body = json!({
                "metadata": {
                    "resourceVersion": version.to_string(),
                    "annotations": {BOUND_BY_CONTROLLER: "yes"},
                },
                "spec": {"claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": claim.namespace, "name": claim.name, "uid": claim.uid,
                }},
            });
            self.patch(format!("/api/v1/persistentvolumes/{volume}"), MERGE, body).await?;
        }
        for ((namespace, name), version) in &plan.provision {
            let body = json!({"metadata": {
                "resourceVersion": version.to_string(),
                "annotations": {SELECTED_NODE: node},
            }});
            self.patch(claim_path(namespace, name), MERGE, body).await?;
        }
        let bound = plan.bind.iter().map(|(_, claim, _)| (&claim.namespace, &claim.name, false));
        let made = plan.provision.iter().map(|((namespace, name), _)| (namespace, name, true));
        for (namespace, name, provisioned) in bound.chain(made) {
            self.wait_for_claim(namespace, name, provisioned.then_some(node), plan.timeout_secs).await?;
        }
        Ok(())
    }

    async fn wait_for_claim(
        &self,
        namespace: &str,
        name: &str,
        node: Option<&str>,
        timeout_secs: i64,
    ) -> Result<(), ApiError> {
        let looks = timeout_secs.max(1);
        for _ in 0..looks {
            tokio::time::sleep(CLAIM_POLL).await;
            let path = claim_path(namespace, name);
            let claim: wire::PersistentVolumeClaim =
                self.call(http::Method::GET, path, "application/json", None).await?;
            let annotations = &claim.metadata.annotations;
            if !claim.spec.volume_name.is_empty() && annotations.contains_key(BIND_COMPLETED) {
                return Ok(());
            }
            if let Some(node) = node
                && annotations.get(SELECTED_NODE).is_none_or(|selected| selected != node)
            {
                return Err(ApiError::ProvisioningFailed(name.to_owned()));
            }
        }
        Err(ApiError::ClaimTimeout { namespace: namespace.to_owned(), name: name.to_owned(), timeout_secs })
    }
}

/// An event's note, cut to what the API takes.
pub fn note(message: &str) -> String {
    const SUFFIX: &str = " ...";
    if message.len() <= NOTE_MAX {
        return message.to_owned();
    }
    let mut end = NOTE_MAX - SUFFIX.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", &message[..end])
}

/// A condition about the generation of the pod that was looked at.
fn condition_of(pod: &PodRef, kind: &str, status: &str, (reason, message): (&str, &str), now: &str) -> Value {
    let mut condition = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": now,
    });
    if pod.generation > 0 {
        condition["observedGeneration"] = pod.generation.into();
    }
    condition
}

fn pod_path(pod: &PodRef) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

fn claim_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_which_generation_they_are_about() {
        let pod =
            |generation| PodRef { uid: "u".into(), namespace: "n".into(), name: "p".into(), generation };
        let observed = |generation| {
            condition_of(&pod(generation), "PodScheduled", "False", ("Unschedulable", "no"), "now")
                .get("observedGeneration")
                .cloned()
        };
        assert_eq!((observed(0), observed(3)), (None, Some(json!(3))));
    }

    /// The methods of the requests, and whether they were carried out.
    type Seen = std::sync::Arc<std::sync::Mutex<Vec<(http::Method, bool)>>>;

    /// A server that holds a pod with this uid under the victim's name.
    fn server(uid: &'static str, seen: Seen) -> Api {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let seen = seen.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body: Value =
                    serde_json::from_slice(&body.collect_bytes().await.expect("a body")).expect("JSON");
                let asked = match parts.method {
                    http::Method::DELETE => &body["preconditions"]["uid"],
                    _ => &body["metadata"]["uid"],
                };
                let fits = asked.is_null() || asked == uid;
                seen.lock().expect("a lock").push((parts.method, fits));
                let (code, answer) = match fits {
                    true => (200, json!({})),
                    false => (
                        409,
                        json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict",
                        "message": "the UID in the precondition (v) does not match the UID in record"}),
                    ),
                };
                http::Response::builder()
                    .status(code)
                    .body(kube::client::Body::from(answer.to_string().into_bytes()))
            }
        });
        Api::new(kube::Client::new(service, "n"))
    }

    #[tokio::test]
    async fn a_pod_that_took_a_victims_name_stays() {
        let victim = PodRef { uid: "v".into(), namespace: "n".into(), name: "web-0".into(), generation: 1 };
        for (there, deleted) in [("v", true), ("newer", false)] {
            let seen = Seen::default();
            server(there, seen.clone()).evict(&victim, "make room", "now").await.expect("it is gone");
            let seen = seen.lock().expect("a lock");
            assert_eq!(seen.last(), Some(&(http::Method::DELETE, deleted)), "{there}");
        }
    }

    #[test]
    fn notes_are_cut_at_a_character() {
        assert_eq!(note("short"), "short");
        let long = note(&"é".repeat(600));
        assert!(long.len() <= NOTE_MAX && long.ends_with("é ..."));
    }
}
