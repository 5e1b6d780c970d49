//! What every request passes through: panic containment, identity, limits, permission, time-out, warnings, metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use machinery::status::StatusError;
use parking_lot::Mutex;

use super::body::Body;
use super::limits::{BODY_LEN_MAX, is_long_running};
use super::negotiate::{Encoding, Offer, form};
use super::request_info::{self, Parsed};
use super::{Api, body, respond};
use crate::authn::bearer;
use crate::contract::{Credentials, Decision, RequestContext, RequestInfo, UserInfo};
use crate::metrics::Answered;
use crate::registry::options::Query;

/// Names a request in the logs of all who passed it on.
const AUDIT_ID: &str = "audit-id";
/// Seconds in the answer to a request that took too long.
const TIMEOUT_RETRY_SECS: u32 = 0;

/// What is known about a connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// DER, leaf first.
    pub peer_certificates: Arc<Vec<Vec<u8>>>,
}

/// One request on its way through.
pub struct RoutedRequest {
    pub parsed: Parsed,
    pub query: Query,
    pub request: Request<Incoming>,
    pub ctx: Arc<RequestContext>,
}

impl Api {
    /// Answers one request. Never fails and never unwinds.
    pub async fn serve(
        self: Arc<Self>,
        connection: Connection,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let started = Instant::now();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let parsed = request_info::parse(request.method(), request.uri().path(), &query);
        let info = parsed.info.clone();
        let encoding = error_encoding(request.headers());
        let is_head = request.method() == http::Method::HEAD;
        let dry_run = query.all("dryRun").iter().any(|d| d == "All");
        let audit_id = audit_id(request.headers());
        let handled = AssertUnwindSafe(self.handle(connection, parsed, query, request)).catch_unwind().await;
        let mut response = match handled {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => respond::error(&error, encoding),
            Err(_) => {
                self.metrics.panicked();
                self.metrics.requests.aborted(&info);
                tracing::error!(path = info.path, verb = info.verb, "a request handler panicked");
                respond::error(
                    &StatusError::internal(
                        "this request caused apiserver to panic. Look in the logs for details.",
                    ),
                    encoding,
                )
            }
        };
        let answered = Answered {
            code: response.status().as_u16(),
            dry_run,
            took: started.elapsed(),
            len: response.body().size_hint().exact(),
            timed_out: response.status() == http::StatusCode::GATEWAY_TIMEOUT,
            is_long_running: is_long_running(&info),
        };
        self.metrics.requests.answered(&info, || self.is_served(&info), answered);
        if let Some(id) = audit_id {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        if is_head {
            *response.body_mut() = body::empty();
        }
        response
    }

    async fn handle(
        self: &Arc<Self>,
        connection: Connection,
        parsed: Parsed,
        query: Query,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, StatusError> {
        let credentials = Credentials {
            peer_certificates: &connection.peer_certificates,
            headers: request.headers(),
            path: request.uri().path(),
        };
        let started = Instant::now();
        let found = self.authenticator.authenticate(credentials).await;
        self.metrics.access.authenticated(found.as_ref().ok(), started.elapsed());
        let user = found?;
        bearer::strip_token(request.headers_mut());
        let user = self.impersonate(user, request.headers()).await?;
        self.authorize(&user, &parsed.info).await?;
        let info = parsed.info.clone();
        let ctx = Arc::new(RequestContext {
            user,
            info: info.clone(),
            now: Timestamp::now(),
            dry_run: query.all("dryRun").iter().any(|d| d == "All"),
            warnings: Mutex::default(),
            cluster: self.cluster.clone(),
        });
        let incoming = RoutedRequest { parsed, query, request, ctx: ctx.clone() };
        let result = if is_long_running(&info) {
            // As in `answered`: made-up names are not counted.
            let nameless = RequestInfo::default();
            let counted = if info.is_resource && !self.is_served(&info) { &nameless } else { &info };
            let _guard = self.metrics.requests.enter_long_running(counted);
            self.route(incoming).await
        } else {
            self.limited(&info, incoming).await
        };
        let warnings = std::mem::take(&mut *ctx.warnings.lock());
        let encoding = Encoding::Json;
        let mut response = result.unwrap_or_else(|error| respond::error(&error, encoding));
        respond::warnings(&mut response, &warnings);
        Ok(response)
    }

    async fn limited(
        self: &Arc<Self>,
        info: &RequestInfo,
        incoming: RoutedRequest,
    ) -> Result<Response<Body>, StatusError> {
        let is_mutating = info.is_resource && !matches!(info.verb.as_str(), "get" | "list");
        let waiting = self.metrics.requests.wait(is_mutating);
        let _permit = self.limits.enter(is_mutating).await?;
        drop(waiting);
        let limit = self.time_limit(&incoming.query)?;
        let _guard = self.metrics.requests.enter(is_mutating);
        match tokio::time::timeout(limit, self.route(incoming)).await {
            Ok(result) => result,
            Err(_) => Err(StatusError::timeout(
                "request did not complete within the allotted timeout",
                TIMEOUT_RETRY_SECS,
            )),
        }
    }

    /// The server's limit, or the shorter one that the client asked for with `timeout`.
    fn time_limit(&self, query: &Query) -> Result<Duration, StatusError> {
        let Some(text) = query.get("timeout") else { return Ok(self.request_timeout) };
        let asked = machinery::time::duration::parse(text).map_err(|e| {
            StatusError::bad_request(format!("invalid timeout specified in the request URL - {e}"))
        })?;
        let asked = Duration::try_from(asked).unwrap_or_default();
        Ok(if asked.is_zero() { self.request_timeout } else { asked.min(self.request_timeout) })
    }

    /// Whether the request names a resource, version and subresource of the catalog.
    fn is_served(&self, info: &RequestInfo) -> bool {
        let catalog = self.registry.catalog.snapshot();
        let kind = catalog.find(&info.group, &info.version, &info.resource);
        kind.is_some_and(|k| info.subresource.is_empty() || k.subresource(&info.subresource).is_some())
    }

    /// Fails with upstream's 403 unless somebody allows the request.
    pub async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<(), StatusError> {
        let started = Instant::now();
        let decision = self.authorizer.authorize(user, info).await;
        self.metrics.access.authorized(&decision, started.elapsed());
        match decision {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(forbidden(user, info, &reason)),
        }
    }
}

/// Upstream's 403.
pub fn forbidden(user: &UserInfo, info: &RequestInfo, reason: &str) -> StatusError {
    let who = &user.name;
    let verb = &info.verb;
    let mut message = if info.is_resource {
        let what = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        let place = if info.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", info.namespace)
        };
        format!("User {who:?} cannot {verb} resource {what:?} in API group {:?} {place}", info.group)
    } else {
        format!("User {who:?} cannot {verb} path {:?}", info.path)
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    StatusError::forbidden(&info.group, &info.resource, &info.name, message)
}

/// The name that the request came with, or a new one.
fn audit_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned();
    given.or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok())
}

/// Errors before routing are answered in the encoding the client prefers, where it is one of ours.
fn error_encoding(headers: &HeaderMap) -> Encoding {
    let accept = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok());
    let offer = Offer { protobuf: true, transforms: true, yaml: true };
    form(accept, offer).map_or(Encoding::Json, |f| f.encoding)
}

/// Reads a whole body, up to the limit.
pub async fn read_body(body: Incoming) -> Result<Bytes, StatusError> {
    let limited = Limited::new(body, BODY_LEN_MAX).collect().await;
    limited.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return StatusError::request_entity_too_large(format!("limit is {BODY_LEN_MAX}"));
        }
        StatusError::bad_request(format!("reading the body: {error}"))
    })
}
