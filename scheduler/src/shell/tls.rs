//! TLS set-up: towards extenders as a client, towards scrapers as a server.
//!
//! Owns the reading of certificates and keys. The provider is named explicitly; no process default is assumed.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use machinery::client::unverified;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::types::ExtenderTls;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{what} is not PEM: {source}")]
    Pem { what: String, source: rustls::pki_types::pem::Error },
    #[error("{what} is not base64: {source}")]
    Base64 { what: String, source: base64::DecodeError },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &str) -> Result<Vec<u8>, TlsError> {
    std::fs::read(Path::new(path)).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what: what.to_owned(), source })
}

fn key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| TlsError::Pem { what: what.to_owned(), source })
}

/// Bytes from a base64 field, or else from a file; empty when neither is given.
fn bytes_of(what: &str, data: &str, file: &str) -> Result<Vec<u8>, TlsError> {
    if !data.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data);
        return decoded.map_err(|source| TlsError::Base64 { what: what.to_owned(), source });
    }
    if file.is_empty() { Ok(Vec::new()) } else { read(file) }
}

/// The client side for an extender. HTTPS without an authority is not verified, as upstream has it.
///
/// # Errors
/// When a certificate or key cannot be read.
pub fn client_config(tls: Option<&ExtenderTls>, https: bool) -> Result<rustls::ClientConfig, TlsError> {
    let none = ExtenderTls::default();
    let tls = tls.unwrap_or(&none);
    let authority = bytes_of("extender CA", &tls.ca_data, &tls.ca_file)?;
    let builder =
        rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verified = if tls.insecure || (https && authority.is_empty()) {
        builder.dangerous().with_custom_certificate_verifier(unverified::verifier())
    } else {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates("extender CA", &authority)? {
            roots.add(certificate)?;
        }
        builder.with_root_certificates(roots)
    };
    let certificate = bytes_of("extender client certificate", &tls.cert_data, &tls.cert_file)?;
    if certificate.is_empty() {
        return Ok(verified.with_no_client_auth());
    }
    let chain = certificates("extender client certificate", &certificate)?;
    let key = key("extender client key", &bytes_of("extender client key", &tls.key_data, &tls.key_file)?)?;
    Ok(verified.with_client_auth_cert(chain, key)?)
}

/// The server side: from files, or with a certificate made on the spot.
///
/// # Errors
/// When a file cannot be read or holds no certificate and key.
pub fn server_config(files: Option<(&str, &str)>) -> Result<rustls::ServerConfig, TlsError> {
    let (chain, key) = match files {
        Some((certificate, key_file)) => {
            (certificates(certificate, &read(certificate)?)?, key(key_file, &read(key_file)?)?)
        }
        None => {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
            let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
            (vec![made.cert.der().clone()], key)
        }
    };
    let builder =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_single_cert(chain, key)?)
}
