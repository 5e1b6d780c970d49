//! From a permitted request to the handler that answers it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use machinery::status::StatusError;
use serde_json::{Value, json};

use super::body::Body;
use super::chain::{RoutedRequest, read_body};
use super::resources::ResourceRequest;
use super::{Api, body, health, profile, respond, version, websocket};
use crate::metrics_api;
use crate::registry::kind::Kind;

/// Checks answer whatever the method.
const HEALTH: [&str; 3] = ["healthz", "livez", "readyz"];
/// Upstream's.
const RETRY_UNINSTALLED_SECS: u32 = 5;

impl Api {
    /// Answers a request whose sender may make it.
    pub async fn route(self: &Arc<Self>, mut incoming: RoutedRequest) -> Result<Response<Body>, StatusError> {
        if !incoming.parsed.info.is_resource {
            return self.non_resource(incoming).await;
        }
        let info = &incoming.parsed.info;
        if info.group == metrics_api::GROUP {
            return self.resource_metrics(info, &incoming.query).await;
        }
        let found =
            self.registry.catalog.snapshot().find(&info.group, &info.version, &info.resource).cloned();
        let kind = found.ok_or_else(|| self.unknown_path())?;
        check_verb(&kind, &incoming)?;
        let streams = info.verb == "watch" || info.subresource == "log";
        if let Some(socket) = streams.then(|| websocket::accept(&mut incoming.request)).flatten() {
            return Ok(socket.answer(self.resource_or_connection(kind, incoming).await?));
        }
        self.resource_or_connection(kind, incoming).await
    }

    async fn resource_or_connection(
        self: &Arc<Self>,
        kind: Arc<Kind>,
        incoming: RoutedRequest,
    ) -> Result<Response<Body>, StatusError> {
        let info = &incoming.parsed.info;
        if self.subresources.takes_connection(&info.resource, &info.subresource, &info.group) {
            return self.connect(kind, incoming).await;
        }
        let (parts, body) = incoming.request.into_parts();
        let bytes = if parts.method == Method::GET { Bytes::new() } else { read_body(body).await? };
        let request = ResourceRequest {
            ctx: &incoming.ctx,
            kind: &kind,
            query: &incoming.query,
            headers: &parts.headers,
            body: &bytes,
        };
        if let Some(answer) = self.computed(&request).await {
            return answer;
        }
        self.resource(&request).await
    }

    async fn non_resource(self: &Arc<Self>, incoming: RoutedRequest) -> Result<Response<Body>, StatusError> {
        let path = incoming.parsed.info.path.trim_end_matches('/').to_owned();
        let first = path.split('/').nth(1).unwrap_or_default();
        let is_check = HEALTH.contains(&first);
        if !is_check && !matches!(*incoming.request.method(), Method::GET | Method::HEAD) {
            let method = incoming.request.method().as_str().to_lowercase();
            return Err(StatusError::method_not_supported("", "", &method)
                .with_message("the server does not allow this method on the requested resource"));
        }
        let headers = incoming.request.headers();
        match first {
            _ if is_check => {
                self.health.answer(&path, &incoming.query).ok_or_else(StatusError::not_found_path)
            }
            "version" => Ok(respond::json(StatusCode::OK, &version::document())),
            "api" | "apis" => self.discovery.answer(self, &path, headers),
            "openapi" => self.openapi.answer(&self.registry, &path, &incoming.query, headers),
            "metrics" => Ok(self.metrics_answer().await),
            "configz" => self.document("/configz"),
            "debug" if self.profiling => profile::answer(&path, &incoming.query).await,
            "" => Ok(respond::json(StatusCode::OK, &self.paths())),
            _ => self.document(&path),
        }
    }

    async fn metrics_answer(&self) -> Response<Body> {
        let text = self.metrics.render(&self.registry.hub, &self.registry).await;
        let mut response = respond::text(StatusCode::OK, text);
        let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        response
    }

    fn document(&self, path: &str) -> Result<Response<Body>, StatusError> {
        let documents = self.documents.load();
        let found = documents.as_ref().and_then(|d| d.get(path));
        let value = found.ok_or_else(|| self.unknown_path())?;
        let mut response = respond::json(StatusCode::OK, value);
        if path.ends_with("jwks") {
            let content_type = HeaderValue::from_static("application/jwk-set+json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        }
        response
            .headers_mut()
            .insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Ok(response)
    }

    /// What a path that nobody serves is answered with. Until every custom resource is served, "not found" would tell
    /// garbage collectors and operators that objects are gone; it is as upstream's "not found protector" has it.
    pub(super) fn unknown_path(&self) -> StatusError {
        if self.serves_all() {
            return StatusError::not_found_path();
        }
        let why =
            "the request has been made before all known HTTP paths have been installed, please try again";
        StatusError::service_unavailable(why).with_retry_after(RETRY_UNINSTALLED_SECS)
    }

    /// Whether every custom resource that was defined at the start is served.
    pub(super) fn serves_all(&self) -> bool {
        self.health.passes(health::CUSTOM_RESOURCES)
    }

    /// The `/` document.
    fn paths(&self) -> Value {
        let snapshot = self.registry.catalog.snapshot();
        let mut paths: Vec<String> =
            ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
                .into_iter()
                .map(str::to_owned)
                .collect();
        for (group, versions) in snapshot.groups().filter(|(g, _)| !g.is_empty()) {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.keys().map(|v| format!("/apis/{group}/{v}")));
        }
        let rest = [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ];
        paths.extend(rest.into_iter().map(str::to_owned));
        json!({"paths": paths})
    }
}

/// 404 for unknown subresources and scopes, 405 for verbs the resource does not have.
fn check_verb(kind: &Kind, incoming: &RoutedRequest) -> Result<(), StatusError> {
    let info = &incoming.parsed.info;
    if info.subresource.is_empty() {
        let across_namespaces = kind.namespaced && info.namespace.is_empty();
        let in_namespace = !kind.namespaced && !info.namespace.is_empty() && kind.resource != "namespaces";
        let on_object = matches!(info.verb.as_str(), "get" | "update" | "patch" | "delete");
        if in_namespace || (across_namespaces && on_object) {
            return Err(StatusError::not_found_path());
        }
        let has = kind.has_verb(&info.verb);
        let wants_namespace =
            across_namespaces && matches!(info.verb.as_str(), "create" | "deletecollection");
        if !has || wants_namespace {
            return Err(StatusError::method_not_supported(&kind.group, &kind.resource, &info.verb));
        }
        return Ok(());
    }
    let sub = kind.subresource(&info.subresource).ok_or_else(StatusError::not_found_path)?;
    let name = format!("{}/{}", kind.resource, sub.name);
    let is_connect = matches!(info.subresource.as_str(), "proxy" | "exec" | "attach" | "portforward" | "log");
    if !is_connect && !sub.verbs.contains(&info.verb) {
        return Err(StatusError::method_not_supported(&kind.group, &name, &info.verb));
    }
    Ok(())
}

/// An empty answer with this code.
pub fn code_only(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = code;
    response
}
