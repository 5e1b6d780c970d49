//! The server's TLS configuration, with certificates that are read again when their files change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};
use tokio_util::sync::CancellationToken;

use crate::authn::version_one;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} holds no certificate in PEM form")]
    NoCertificate(String),
    #[error("{0} holds no private key in PEM form")]
    NoKey(String),
    #[error("certificate and key do not work: {0}")]
    Bad(#[from] rustls::Error),
}

/// Where a certificate and its key come from.
#[derive(Clone, Debug)]
pub enum Source {
    Files { cert: PathBuf, key: PathBuf },
    Pem { cert: String, key: String },
}

impl Source {
    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
        let file = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source })
        };
        match self {
            Self::Files { cert, key } => Ok((file(cert)?, file(key)?)),
            Self::Pem { cert, key } => Ok((cert.clone().into_bytes(), key.clone().into_bytes())),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Files { cert, .. } => cert.display().to_string(),
            Self::Pem { .. } => "the given certificate".to_owned(),
        }
    }

    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let (cert, key) = self.read()?;
        let chain: Vec<CertificateDer<'static>> =
            rustls_pemfile::certs(&mut &cert[..]).filter_map(Result::ok).collect();
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.name()));
        }
        let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &key[..])
            .ok()
            .flatten()
            .ok_or_else(|| TlsError::NoKey(self.name()))?;
        let signing = provider().key_provider.load_private_key(key)?;
        Ok(CertifiedKey::new(chain, signing))
    }

    /// The newest change of the files.
    fn modified(&self) -> Option<SystemTime> {
        let Self::Files { cert, key } = self else { return None };
        let time = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        time(cert).max(time(key))
    }
}

static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];

/// What is spoken on the port, as flags narrow it.
#[derive(Clone, Debug)]
pub struct Spoken {
    /// Only TLS 1.3 (`--tls-min-version=VersionTLS13`).
    pub newest_only: bool,
    /// The suites of TLS 1.2 by Go's names; all when there are none. Those of TLS 1.3 are always there, as in Go.
    pub suites: Vec<String>,
    pub http2: bool,
}

impl Default for Spoken {
    fn default() -> Self {
        Self { newest_only: false, suites: Vec::new(), http2: true }
    }
}

impl Spoken {
    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        if self.newest_only { &NEWEST } else { rustls::ALL_VERSIONS }
    }

    fn has(&self, suite: SupportedCipherSuite) -> bool {
        let name = format!("{:?}", suite.suite());
        // Go has a second, shorter name for the ChaCha20 suites.
        let is_named = |wanted: &String| *wanted == name || format!("{wanted}_SHA256") == name;
        suite.tls13().is_some() || self.suites.is_empty() || self.suites.iter().any(is_named)
    }

    /// The provider for serving: AES-128 first, as Go's servers have it. Its key is long enough, and long lists and many
    /// watches are bound by what a byte costs.
    fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|suite| self.has(*suite));
        provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
        Arc::new(provider)
    }
}

/// The crypto provider of every configuration.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[derive(Debug)]
struct Reloading(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Asks every client for a certificate and takes any: the authenticator decides what it is worth, and a client
/// without one can still bring a token. The handshake proves that the client holds the key.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
            .or_else(|refusal| version_one::verify_handshake(cert, message, dss, algorithms, refusal))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
            .or_else(|refusal| version_one::verify_handshake(cert, message, dss, algorithms, refusal))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The configuration for a source; files are followed until `shutdown`.
pub fn server_config(
    source: Source,
    spoken: &Spoken,
    shutdown: CancellationToken,
) -> Result<Arc<ServerConfig>, TlsError> {
    let reloading = Arc::new(Reloading(ArcSwap::from_pointee(source.load()?)));
    let provider = spoken.provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(spoken.versions())?
        .with_client_cert_verifier(Arc::new(AnyClient(provider)))
        .with_cert_resolver(reloading.clone());
    config.ignore_client_order = true;
    let protocols: &[&[u8]] = if spoken.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    tokio::spawn(async move {
        tokio::select! {
            () = follow(source, reloading) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(Arc::new(config))
}

async fn follow(source: Source, reloading: Arc<Reloading>) {
    let mut seen = source.modified();
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let now = source.modified();
        if now == seen {
            continue;
        }
        match source.load() {
            Ok(key) => {
                reloading.0.store(Arc::new(key));
                seen = now;
                tracing::info!("serving certificate read again");
            }
            Err(error) => tracing::warn!(%error, "the changed serving certificate cannot be used yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_narrow_what_is_spoken() {
        let check = |spoken: Spoken, versions: usize, suites: usize| {
            let found = (spoken.versions().len(), spoken.provider().cipher_suites.len());
            assert_eq!(found, (versions, suites), "{spoken:?}");
        };
        check(Spoken::default(), 2, 9);
        check(Spoken { newest_only: true, ..Spoken::default() }, 1, 9);
        let two = ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"];
        check(Spoken { suites: two.map(str::to_owned).to_vec(), ..Spoken::default() }, 2, 5);
        check(Spoken { suites: vec!["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()], ..Spoken::default() }, 2, 3);
    }
}
