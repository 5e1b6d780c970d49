//! The connection to the API: requests and watches share one HTTP/2 connection, and all of it is replaced when the
//! node's certificate is. A connection keeps the certificate it was opened with for life, so renewing the certificate
//! alone would leave the old one in use until the server refuses it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config as KubeConfig};
use parking_lot::RwLock;
use rustls::client::Resumption;
use tower::{Service, ServiceBuilder};

use super::identity::Identity;

/// A silent connection is asked whether it lives this often; watches alone would not notice that it does not.
const PING_EVERY: Duration = Duration::from_secs(15);
/// And counts as dead when the answer takes so long.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS sessions kept for reconnecting.
const SESSIONS_MAX: usize = 4;

type Http = HttpClient<hyper_rustls::HttpsConnector<HttpConnector>, Body>;

/// Sends requests over the newest connection. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    tls: rustls::ClientConfig,
    connect_timeout: Option<Duration>,
    current: Arc<RwLock<Http>>,
}

impl Transport {
    /// A client over a new transport; connections show `identity`, where there is one, else what the configuration
    /// names.
    ///
    /// # Errors
    /// When the configuration's credentials or certificates cannot be used.
    pub fn client(
        config: KubeConfig,
        identity: Option<Arc<Identity>>,
    ) -> Result<(Client, Transport), kube::Error> {
        let mut tls = config.rustls_client_config()?;
        if let Some(identity) = identity {
            tls.client_auth_cert_resolver = identity;
        }
        let current = Arc::new(RwLock::new(connect(tls.clone(), config.connect_timeout)));
        let transport = Transport { tls, connect_timeout: config.connect_timeout, current };
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .map_err(tower::BoxError::from)
            .service(transport.clone());
        Ok((Client::new(service, config.default_namespace), transport))
    }

    /// New requests go over new connections; what is under way ends on the old ones.
    pub fn renew(&self) {
        *self.current.write() = connect(self.tls.clone(), self.connect_timeout);
    }
}

fn connect(mut tls: rustls::ClientConfig, timeout: Option<Duration>) -> Http {
    // A resumed session would carry the old certificate.
    tls.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(timeout);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(https)
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let http = self.current.read().clone();
        Box::pin(async move { http.request(request).await })
    }
}
