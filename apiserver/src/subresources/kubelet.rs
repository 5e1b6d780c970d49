//! Connections to kubelets and, through them or directly, to pods and services.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machinery::client::unverified;
use machinery::status::StatusError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::body::Body;
use crate::http::tls::provider;

/// A kubelet or pod that does not accept a connection, or does not shake hands, for this long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach kubelets and prove who we are.
#[derive(Clone, Debug, Default)]
pub struct KubeletConfig {
    /// `--kubelet-certificate-authority`; without one, serving certificates are not verified (as upstream).
    pub authority: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Node address types, preferred first.
    pub address_types: Vec<String>,
}

/// Opens connections; holds no pool, because nearly all of them are upgraded or long streams.
pub struct Kubelet {
    config: KubeletConfig,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// Kubelets know us by certificate and are known by the kubelet authority.
    pub is_kubelet: bool,
}

fn unreachable(destination: &Destination, why: impl std::fmt::Display) -> StatusError {
    let host = if destination.host.contains(':') {
        format!("[{}]", destination.host)
    } else {
        destination.host.clone()
    };
    let text = format!("error trying to reach service: dial tcp {host}:{}: {why}", destination.port);
    StatusError::service_unavailable(text)
}

impl Kubelet {
    pub fn new(config: KubeletConfig) -> Self {
        Self { config }
    }

    /// Preferred address types of nodes.
    pub fn address_types(&self) -> Vec<&str> {
        if self.config.address_types.is_empty() {
            return vec!["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];
        }
        self.config.address_types.iter().map(String::as_str).collect()
    }

    /// Sends one request over a new connection; the answer can be an upgrade.
    pub async fn send(
        &self,
        to: &Destination,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, StatusError> {
        let stream =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((to.host.as_str(), to.port))).await;
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(to, error)),
            Err(_) => return Err(unreachable(to, "i/o timeout")),
        };
        let _ = stream.set_nodelay(true);
        let io: Box<dyn Io> = if to.tls {
            let config = self.client_config(to.is_kubelet).map_err(|e| unreachable(to, e))?;
            let name = ServerName::try_from(to.host.clone()).map_err(|e| unreachable(to, e))?;
            let shaking = TlsConnector::from(config).connect(name, stream);
            let tls = tokio::time::timeout(CONNECT_TIMEOUT, shaking).await;
            let tls = tls.map_err(|_| unreachable(to, "TLS handshake timeout"))?;
            Box::new(tls.map_err(|e| unreachable(to, e))?)
        } else {
            Box::new(stream)
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| unreachable(to, e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a passed-through connection ended with an error");
            }
        });
        sender.send_request(request).await.map_err(|e| unreachable(to, e))
    }

    fn client_config(
        &self,
        is_kubelet: bool,
    ) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error + Send + Sync>> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match &self.config.authority {
            Some(path) if is_kubelet => {
                let mut roots = RootCertStore::empty();
                for certificate in rustls_pemfile::certs(&mut &std::fs::read(path)?[..]) {
                    roots.add(certificate?)?;
                }
                builder.with_root_certificates(roots)
            }
            _ => builder.dangerous().with_custom_certificate_verifier(unverified::verifier()),
        };
        let (Some(certificate), Some(key), true) = (&self.config.certificate, &self.config.key, is_kubelet)
        else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            rustls_pemfile::certs(&mut &std::fs::read(certificate)?[..]).collect();
        let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &std::fs::read(key)?[..])?
            .ok_or("no private key in PEM form")?;
        Ok(Arc::new(builder.with_client_auth_cert(chain?, key)?))
    }
}
