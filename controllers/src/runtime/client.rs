//! The real [`Api`]: turns actions and questions into HTTP requests of one identity.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::request::Builder;
use kube::Client;
use serde_json::{Value, json};

use super::discovery;
use super::executor::Api;
use super::identity::Identity;
use super::plan::{Action, Answer, Ask, Failure, Note, PatchKind, Propagation, Verb};

/// The field manager of all writes, as upstream's controllers appear in `managedFields`.
pub const FIELD_MANAGER: &str = "kube-controller-manager";

const ACCEPT_META: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_META_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Where events go. Recording never blocks.
pub trait EventSink: Send + Sync + 'static {
    /// Records one event that `component` reports.
    fn record(&self, component: &'static str, note: Note);
}

/// A controller's client.
pub struct ApiClient {
    client: Client,
    identity: Arc<dyn Identity>,
    events: Arc<dyn EventSink>,
    component: &'static str,
}

impl ApiClient {
    /// A client that acts as `identity`; `component` is who reports its events.
    pub fn new(
        client: Client,
        identity: Arc<dyn Identity>,
        events: Arc<dyn EventSink>,
        component: &'static str,
    ) -> Self {
        Self { client, identity, events, component }
    }

    /// Sends one request as this identity and returns the JSON answer.
    pub async fn send(&self, request: Builder, body: Vec<u8>) -> Result<Value, Failure> {
        let mut request = request.body(body).map_err(|error| Failure::local(error.to_string()))?;
        self.identity.sign(request.headers_mut()).await?;
        let authorization = request.headers().get(AUTHORIZATION).cloned();
        let answer = self.client.request::<Value>(request).await.map_err(failure_of);
        if let Some(authorization) = authorization
            && answer.as_ref().is_err_and(|failure| failure.code == 401)
        {
            self.identity.refused(&authorization).await;
        }
        answer
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Value, Failure> {
        self.send(http::Request::get(path).header(ACCEPT, accept), Vec::new()).await
    }
}

/// Tells a client error apart for the executor.
pub fn failure_of(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => Failure {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            creating: false,
        },
        other => Failure::local(other.to_string()),
    }
}

/// The request of a write.
fn request_of(action: &Action) -> Result<(Builder, Vec<u8>), Failure> {
    let path = action.path();
    let managed = format!("{path}?fieldManager={FIELD_MANAGER}");
    let (request, body) = match &action.verb {
        Verb::Create { body, .. } => (http::Request::post(managed), encode(body)?),
        Verb::Update { body, .. } => (http::Request::put(managed), encode(body)?),
        Verb::Patch { body, kind, .. } => {
            let (uri, content_type) = match kind {
                PatchKind::Merge => (managed, "application/merge-patch+json"),
                PatchKind::Json => (managed, "application/json-patch+json"),
                PatchKind::Apply => (format!("{managed}&force=true"), "application/apply-patch+yaml"),
            };
            return Ok((http::Request::patch(uri).header(CONTENT_TYPE, content_type), encode(body)?));
        }
        Verb::Delete { uid, resource_version, propagation, grace_secs } => {
            let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            if uid.is_some() || resource_version.is_some() {
                options["preconditions"] = preconditions(uid.as_deref(), resource_version.as_deref());
            }
            if let Some(how) = propagation {
                options["propagationPolicy"] = propagation_name(*how).into();
            }
            if let Some(secs) = grace_secs {
                options["gracePeriodSeconds"] = (*secs).into();
            }
            (http::Request::delete(path), encode(&options)?)
        }
        Verb::DeleteCollection => (http::Request::delete(path), b"{}".to_vec()),
    };
    Ok((request.header(CONTENT_TYPE, "application/json"), body))
}

fn preconditions(uid: Option<&str>, resource_version: Option<&str>) -> Value {
    let mut fields = serde_json::Map::new();
    uid.map(|uid| fields.insert("uid".into(), uid.into()));
    resource_version.map(|version| fields.insert("resourceVersion".into(), version.into()));
    Value::Object(fields)
}

fn propagation_name(how: Propagation) -> &'static str {
    match how {
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
        Propagation::Orphan => "Orphan",
    }
}

fn encode(body: &Value) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::local(error.to_string()))
}

#[async_trait]
impl Api for ApiClient {
    async fn write(&self, action: &Action) -> Result<Value, Failure> {
        let (request, body) = request_of(action)?;
        self.send(request.header(ACCEPT, "application/json"), body).await
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        let answer = match ask {
            Ask::Get(path) => self.get(path, "application/json").await,
            // A list and an object negotiate different types; which one a path names shows in its query.
            Ask::Meta(path) if path.contains('?') => self.get(path, ACCEPT_META_LIST).await,
            Ask::Meta(path) => self.get(path, ACCEPT_META).await,
            Ask::Review(path, body) => {
                let request = http::Request::post(path.as_str()).header(CONTENT_TYPE, "application/json");
                self.send(request, body.clone().into_bytes()).await
            }
            Ask::Kinds => {
                return match discovery::discover(self).await {
                    Ok(found) => Answer::Kinds(Arc::new(found)),
                    Err(failure) => Answer::Failed(failure),
                };
            }
        };
        answer.map_or_else(Answer::Failed, |body| Answer::Json(Arc::new(body)))
    }

    fn record(&self, note: Note) {
        self.events.record(self.component, note);
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Action;
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn a_delete_carries_its_precondition() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}}))
                .expect("a pod");
        let (request, body) =
            request_of(&Action::delete(&pod).propagating(Propagation::Background)).expect("a request");
        let request = request.body(()).expect("a request");
        assert_eq!(
            (request.method().as_str(), request.uri().path()),
            ("DELETE", "/api/v1/namespaces/n/pods/a")
        );
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["preconditions"], json!({"uid": "u"}));
        assert_eq!(body["propagationPolicy"], "Background");
    }
}
