//! Health and metrics over HTTPS.
//!
//! Owns the small set of paths scrapers and probes ask for. Health answers anyone; metrics ask the API server who
//! is calling and whether they may (TokenReview and SubjectAccessReview), unless no client is given.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// What the paths show.
#[derive(Clone)]
pub struct State {
    pub metrics: Arc<Metrics>,
    /// All kinds have been listed.
    pub ready: Arc<AtomicBool>,
    /// Who may read metrics is asked here.
    pub client: kube::Client,
    /// Paths that anyone may read; a `*` at the end stands for whatever follows.
    pub open_paths: Arc<[String]>,
}

/// Serves until the shutdown.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    tls: rustls::ServerConfig,
    state: State,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    loop {
        let socket = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    continue;
                }
            },
        };
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let service = hyper::service::service_fn(move |request| answer(request, state.clone()));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

type Answer = Response<Full<bytes::Bytes>>;

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

async fn answer(request: Request<Incoming>, state: State) -> Result<Answer, std::convert::Infallible> {
    Ok(match request.uri().path() {
        "/healthz" | "/livez" => text(StatusCode::OK, "ok"),
        "/readyz" if state.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok"),
        "/readyz" => text(StatusCode::INTERNAL_SERVER_ERROR, "[-]informer-sync failed"),
        "/metrics" | "/metrics/resources" => match allowed(&request, &state).await {
            Ok(()) => text(StatusCode::OK, state.metrics.text()),
            Err(status) => text(status, status.canonical_reason().unwrap_or_default()),
        },
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    })
}

fn is_open(path: &str, open: &[String]) -> bool {
    open.iter().any(|p| p.strip_suffix('*').map_or(p == path, |prefix| path.starts_with(prefix)))
}

/// Whether the bearer of the request's token may read the path.
async fn allowed(request: &Request<Incoming>, state: &State) -> Result<(), StatusCode> {
    if is_open(request.uri().path(), &state.open_paths) {
        return Ok(());
    }
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let Some(token) = header.and_then(|h| h.strip_prefix("Bearer ")) else {
        return Err(StatusCode::UNAUTHORIZED);
    };
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
    });
    let review = post(&state.client, "/apis/authentication.k8s.io/v1/tokenreviews", review).await?;
    if review["status"]["authenticated"] != json!(true) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let user = &review["status"]["user"];
    let access = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": user["username"], "groups": user["groups"], "uid": user["uid"],
            "nonResourceAttributes": {"path": request.uri().path(), "verb": "get"},
        },
    });
    let access = post(&state.client, "/apis/authorization.k8s.io/v1/subjectaccessreviews", access).await?;
    if access["status"]["allowed"] == json!(true) { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
}

async fn post(client: &kube::Client, path: &str, body: Value) -> Result<Value, StatusCode> {
    let request = Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    client.request(request).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::is_open;

    #[test]
    fn open_paths_are_exact_or_end_in_a_star() {
        let open = ["/metrics".to_owned(), "/debug/*".to_owned()];
        for (path, expected) in [("/metrics", true), ("/metrics/resources", false), ("/debug/x", true)] {
            assert_eq!(is_open(path, &open), expected, "{path}");
        }
    }
}
