//! The client of the watches. Eighty watches over HTTP/1.1 are eighty connections, each with its own TLS state and
//! buffers on both sides; over HTTP/2 they share one. Writes keep their own connections: they are many at a time, and
//! one connection would line them up.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use machinery::client::{ClientError, RequestsLayer};
use tower::ServiceBuilder;

/// A silent connection is asked whether it lives this often; watches alone would not notice that it does not.
const PING_EVERY: Duration = Duration::from_secs(15);
/// And counts as dead when the answer takes so long.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A client whose requests share one HTTP/2 connection where the server speaks it. With a proxy, without TLS, or with
/// a server name of its own, the usual client.
///
/// # Errors
/// When the configuration's credentials or certificates cannot be used.
pub fn watching(config: kube::Config) -> Result<kube::Client, ClientError> {
    let is_plain = config.cluster_url.scheme_str() != Some("https");
    if is_plain || config.proxy_url.is_some() || config.tls_server_name.is_some() {
        return machinery::client::from_config(config, 0.0, 0);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config().map_err(ClientError::Build)?)
        .https_only()
        .enable_all_versions()
        .wrap_connector(connector);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(RequestsLayer::of(&config))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(ClientError::Build)?)
        .layer(config.extra_headers_layer().map_err(ClientError::Build)?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace))
}
