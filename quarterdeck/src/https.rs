//! One HTTP/1.1 connection over TLS, for the few questions that are asked before there is a Kubernetes client.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::failure::Result;

/// Requests with a small body.
pub type Sender = SendRequest<Full<Bytes>>;

/// Connects to `host:port`, whose certificate must name `name`.
pub async fn connect(address: &str, name: &str, config: ClientConfig) -> Result<Sender> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Its end shows at the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Trusts the authority whose certificate (PEM) is given, and no other.
pub fn verified(ca: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in rustls_pemfile::certs(&mut ca.as_bytes()) {
        roots.add(cert?)?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
