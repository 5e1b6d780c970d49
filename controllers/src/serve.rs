//! The process' own endpoint: `/healthz`, `/livez`, `/readyz` and `/metrics`, as kube-controller-manager serves them
//! on port 10257. Over TLS with a certificate of its own making unless one is given. The paths of
//! `--authorization-always-allow-paths` (health) are told to everyone, others to those whom the API server knows and
//! allows.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::runtime::metrics;

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("listening on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The certificate or its key is not usable.
    #[error("the endpoint's certificate: {0}")]
    Certificate(String),
}

/// A certificate and its key, PEM.
pub struct Certificate {
    /// The chain, own certificate first.
    pub chain: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

/// Who may read.
pub struct Readers {
    /// Asks the API server about them.
    pub client: kube::Client,
    /// `--authorization-always-allow-paths`: read by anyone; `/*` at the end stands for everything below.
    pub open_paths: Vec<String>,
}

impl Readers {
    fn are_all_allowed(&self, path: &str) -> bool {
        self.open_paths.iter().any(|open| match open.strip_suffix("/*") {
            Some(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            None => open == path,
        })
    }
}

/// Serves until `stop`. Returns once the port is open; serving goes on in the background.
///
/// # Errors
/// When the port or the certificate cannot be used.
pub async fn serve(
    address: SocketAddr,
    certificate: Option<Certificate>,
    readers: Readers,
    stop: CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let tls = tls(certificate)?;
    let readers = Arc::new(readers);
    let listener = TcpListener::bind(address).await.map_err(|error| ServeError::Listen(address, error))?;
    let bound = listener.local_addr().map_err(|error| ServeError::Listen(address, error))?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            if let Ok((stream, _)) = accepted {
                tokio::spawn(connection(stream, tls.clone(), readers.clone()));
            }
        }
    });
    Ok(bound)
}

fn tls(certificate: Option<Certificate>) -> Result<TlsAcceptor, ServeError> {
    let wrong = |error: &dyn std::fmt::Display| ServeError::Certificate(error.to_string());
    let certificate = match certificate {
        Some(given) => given,
        None => {
            let made =
                rcgen::generate_simple_self_signed(vec!["localhost".to_string(), "127.0.0.1".to_string()]);
            let made = made.map_err(|error| wrong(&error))?;
            Certificate {
                chain: made.cert.pem().into_bytes(),
                key: made.signing_key.serialize_pem().into_bytes(),
            }
        }
    };
    let chain: Result<Vec<_>, _> = rustls_pemfile::certs(&mut certificate.chain.as_slice()).collect();
    let key = rustls_pemfile::private_key(&mut certificate.key.as_slice()).map_err(|error| wrong(&error))?;
    let key = key.ok_or_else(|| ServeError::Certificate("the key file holds no key".into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(|error| wrong(&error))?, key)
        .map_err(|error| wrong(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(stream: tokio::net::TcpStream, tls: TlsAcceptor, readers: Arc<Readers>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = hyper::service::service_fn(move |request| answer(request, readers.clone()));
    // A client that breaks off is its own affair.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    readers: Arc<Readers>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path();
    let (status, body) = if !readers.are_all_allowed(path) && !may_read(&request, path, &readers.client).await
    {
        (StatusCode::FORBIDDEN, "forbidden\n".to_string())
    } else {
        match path {
            "/healthz" | "/livez" | "/readyz" => (StatusCode::OK, "ok".to_string()),
            "/metrics" => (StatusCode::OK, metrics::render()),
            _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_string()),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

/// Asks the API server who a bearer token is and whether that user may read the path.
async fn may_read(request: &Request<Incoming>, path: &str, client: &kube::Client) -> bool {
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
    let review = TokenReview {
        spec: TokenReviewSpec { token: token.to_string(), audiences: None },
        ..TokenReview::default()
    };
    let reviewed = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let status = reviewed.ok().and_then(|review| review.status);
    let Some(user) =
        status.filter(|status| status.authenticated == Some(true)).and_then(|status| status.user)
    else {
        return false;
    };
    let wanted = NonResourceAttributes { path: Some(path.to_string()), verb: Some("get".into()) };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            groups: user.groups,
            uid: user.uid,
            non_resource_attributes: Some(wanted),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviewed =
        Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    reviewed.ok().and_then(|review| review.status).is_some_and(|status| status.allowed)
}
