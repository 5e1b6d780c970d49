//! The server's TLS: its certificate (from files, or signed by itself), replaced while running when the files
//! change, and the authority of client certificates.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::kubelet::tls::provider;

/// The server cannot serve TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds nothing usable.
    #[error("{path}: {text}")]
    File {
        /// Which.
        path: String,
        /// Why.
        text: String,
    },
    /// A certificate cannot be made.
    #[error("cannot sign a serving certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// The pieces do not fit together.
    #[error("TLS set-up: {0}")]
    Config(#[from] rustls::Error),
    /// The authority of clients is unusable.
    #[error("client CA: {0}")]
    ClientCa(String),
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), text: error.to_string() }
}

/// Reads every certificate of a PEM file.
pub fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs = CertificateDer::pem_file_iter(path).map_err(|e| file_error(path, e))?;
    let certs = certs.collect::<Result<Vec<_>, _>>().map_err(|e| file_error(path, e))?;
    if certs.is_empty() { Err(file_error(path, "no certificate in it")) } else { Ok(certs) }
}

/// Reads a certificate chain and its key (which may be in the same file).
pub fn read_key_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_certs(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file_error(key, e))?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// Signs a serving certificate of one's own.
pub fn self_signed(hostname: &str, ips: &[IpAddr]) -> Result<CertifiedKey, TlsError> {
    let names = std::iter::once(hostname.to_owned()).chain(ips.iter().map(ToString::to_string));
    let signed = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>())?;
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der())
        .map_err(|e| TlsError::ClientCa(e.to_string()))?;
    Ok(CertifiedKey::from_der(vec![signed.cert.der().clone()], key, &provider())?)
}

/// The certificate being served; replaced while the server runs.
#[derive(Debug)]
pub struct Serving(RwLock<Arc<CertifiedKey>>);

impl Serving {
    /// Serves this one first.
    pub fn new(key: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(key))))
    }

    /// Serves another one from now on.
    pub fn replace(&self, key: CertifiedKey) {
        *self.0.write() = Arc::new(key);
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// The server's TLS configuration. Clients may show a certificate of the authority; without one they must prove
/// themselves otherwise.
pub fn server_config(serving: Arc<Serving>, client_ca: Option<&Path>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = match client_ca {
        None => builder.with_no_client_auth().with_cert_resolver(serving),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for cert in read_certs(path)? {
                roots.add(cert)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| TlsError::ClientCa(e.to_string()))?;
            builder.with_client_cert_verifier(verifier).with_cert_resolver(serving)
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
