//! TLS odds and ends: a client that checks nothing (probes and hooks, as upstream's), and certificates of the
//! agent's own.

use std::sync::Arc;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use machinery::client::unverified;
use rustls::crypto::{CryptoProvider, ring};

/// The cryptography every configuration here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Connects over HTTP and HTTPS without checking who answers.
pub fn unverified_connector() -> HttpsConnector<HttpConnector> {
    let config = unverified::config();
    hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build()
}
