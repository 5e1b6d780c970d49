//! TLS for both sides of both ports: certificate files, read again when they change.
//!
//! A setting that is about security and cannot take effect is an error, never ignored.

mod address;
mod policy;
mod rules;
mod self_signed;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use address::{AddressError, Names, SystemLookup};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
pub use policy::TlsPolicy;
use rules::{RuledClients, RuledServers, Rules};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint};

/// How often the files' times are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// HTTP/2 and, for the JSON gateway, HTTP/1.1.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The files of one port, as the flags name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Authorities the other side must come from.
    pub trusted_ca_file: Option<PathBuf>,
    /// Clients must show a certificate.
    pub client_cert_auth: bool,
    /// The certificate shown to servers, when it is another.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Make a self-signed certificate when there is none.
    pub auto_tls: bool,
    /// Where a made certificate is kept.
    pub auto_tls_dir: Option<PathBuf>,
    /// Host names and addresses a made certificate is for, beside this machine's own.
    pub auto_tls_hosts: Vec<String>,
    /// Years a made certificate is valid; 0 for one.
    pub auto_tls_years: u32,
    /// Common names that the other side may have; empty for any.
    pub allowed_names: Vec<String>,
    /// Host names and addresses of which the other side's certificate must be valid for one; empty for any.
    pub allowed_hosts: Vec<String>,
    /// Certificates that are revoked.
    pub crl_file: Option<PathBuf>,
    /// Members may connect from other addresses than those their certificates are for.
    pub skip_client_san_verification: bool,
    /// Versions and cipher suites.
    pub policy: TlsPolicy,
}

/// Why certificates cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or has nothing usable in it.
    #[error("certificate file {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// Certificate and key do not go together, or similar.
    #[error("TLS: {0}")]
    Setup(String),
}

fn file_error(path: &Path, cause: impl ToString) -> TlsError {
    TlsError::File { path: path.display().to_string(), cause: cause.to_string() }
}

fn setup(error: impl ToString) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn read_certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = fs::read(path).map_err(|error| file_error(path, error))?;
    let found: io::Result<Vec<_>> = rustls_pemfile::certs(&mut text.as_slice()).collect();
    let found = found.map_err(|error| file_error(path, error))?;
    if found.is_empty() { Err(file_error(path, "holds no certificate")) } else { Ok(found) }
}

fn read_key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = fs::read(path).map_err(|error| file_error(path, error))?;
    let key = rustls_pemfile::private_key(&mut text.as_slice()).map_err(|error| file_error(path, error))?;
    key.ok_or_else(|| file_error(path, "holds no private key"))
}

fn roots(path: &PathBuf) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| file_error(path, error))?;
    }
    Ok(roots)
}

impl TlsFiles {
    /// Whether the port speaks TLS at all.
    pub fn is_used(&self) -> bool {
        self.cert_file.is_some() || self.auto_tls
    }

    /// Whether this member makes its own certificate: given files come first, as in etcd.
    fn is_self_signed(&self) -> bool {
        self.auto_tls && self.cert_file.is_none()
    }

    /// Whether the other side must show a certificate.
    fn asks_clients(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some() && !self.is_self_signed()
    }

    /// Refuses settings that could not take effect.
    fn check(&self) -> Result<(), TlsError> {
        let refused = |what: &str| Err(setup(what));
        if self.cert_file.is_none() != self.key_file.is_none() {
            return refused("a certificate file and its key file must be given together");
        }
        if self.client_cert_file.is_none() != self.client_key_file.is_none() {
            return refused("a client certificate file and its key file must be given together");
        }
        if !self.allowed_names.is_empty() && !self.allowed_hosts.is_empty() {
            return refused("allowed common names and allowed host names are mutually exclusive");
        }
        let has_rules =
            !self.allowed_names.is_empty() || !self.allowed_hosts.is_empty() || self.crl_file.is_some();
        if (self.client_cert_auth || has_rules) && self.trusted_ca_file.is_none() {
            return refused(
                "client certificates can be asked for, limited to names, or revoked only with a file of trusted \
                 authorities: give --trusted-ca-file (--peer-trusted-ca-file)",
            );
        }
        if (self.client_cert_auth || has_rules) && !self.is_used() {
            return refused(
                "client certificates can be checked only over TLS: give a certificate and its key",
            );
        }
        Ok(())
    }

    fn server_identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Ok((read_certificates(cert)?, read_key(key)?)),
            (Some(cert), None) => Err(file_error(cert, "has no key file beside it: give --key-file too")),
            (None, _) => self_signed::load_or_make(self),
        }
    }

    fn server_config(&self) -> Result<ServerConfig, TlsError> {
        self.check()?;
        let provider = self.policy.provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.policy.versions())
            .map_err(setup)?;
        let builder = match self.trusted_ca_file.as_ref().filter(|_| self.asks_clients()) {
            Some(path) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider).build();
                let mut verifier: Arc<dyn ClientCertVerifier> = verifier.map_err(setup)?;
                if let Some(rules) = Rules::read(self)? {
                    verifier = Arc::new(RuledClients { inner: verifier, rules });
                }
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = self.server_identity()?;
        let mut config = builder.with_single_cert(chain, key).map_err(setup)?;
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn client_config(&self) -> Result<ClientConfig, TlsError> {
        self.check()?;
        let provider = self.policy.provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.policy.versions())
            .map_err(setup)?;
        let rules = Rules::read(self)?;
        let builder = if self.is_self_signed() {
            // Each member made its own: the connection is private, and the other side unknown, as in etcd.
            let verifier = RuledServers { inner: None, rules, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            let authorities = self.trusted_ca_file.as_ref().map_or(Ok(RootCertStore::empty()), roots)?;
            match rules {
                Some(rules) => {
                    let authorities = Arc::new(authorities);
                    let verifier =
                        WebPkiServerVerifier::builder_with_provider(authorities, provider.clone()).build();
                    let inner: Arc<dyn ServerCertVerifier> = verifier.map_err(setup)?;
                    let verifier = RuledServers { inner: Some(inner), rules: Some(rules), provider };
                    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
                }
                None => builder.with_root_certificates(authorities),
            }
        };
        let cert = self.client_cert_file.as_ref().or(self.cert_file.as_ref());
        let key = self.client_key_file.as_ref().or(self.key_file.as_ref());
        let mut config = match (cert, key) {
            (Some(cert), Some(key)) => {
                builder.with_client_auth_cert(read_certificates(cert)?, read_key(key)?).map_err(setup)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// When each file was last written: any other value than before means that something has changed.
    fn changes(&self) -> Changes {
        let files = [
            &self.cert_file,
            &self.key_file,
            &self.trusted_ca_file,
            &self.client_cert_file,
            &self.client_key_file,
            &self.crl_file,
        ];
        files.map(|path| fs::metadata(path.as_ref()?).ok()?.modified().ok())
    }
}

/// When each of the files was written, where it is there.
type Changes = [Option<SystemTime>; 6];

/// A configuration made from files, made again when they change. A change that cannot be used is reported
/// and the old one stays.
struct Reloading<C> {
    files: TlsFiles,
    make: fn(&TlsFiles) -> Result<C, TlsError>,
    current: Mutex<(Arc<C>, Changes, Instant)>,
}

impl<C> Reloading<C> {
    fn load(files: &TlsFiles, make: fn(&TlsFiles) -> Result<C, TlsError>) -> Result<Self, TlsError> {
        let current = (Arc::new(make(files)?), files.changes(), Instant::now());
        Ok(Self { files: files.clone(), make, current: Mutex::new(current) })
    }

    fn get(&self) -> Arc<C> {
        let mut current = self.current.lock();
        if current.2.elapsed() > RELOAD_INTERVAL {
            current.2 = Instant::now();
            let changed = self.files.changes();
            if changed != current.1 {
                match (self.make)(&self.files) {
                    Ok(config) => {
                        tracing::info!("certificates have changed and were read again");
                        *current = (Arc::new(config), changed, Instant::now());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "changed certificates cannot be used; the old ones stay")
                    }
                }
            }
        }
        current.0.clone()
    }
}

/// The server's side of a port.
pub struct ServerTls {
    config: Reloading<ServerConfig>,
    checks_addresses: bool,
}

impl ServerTls {
    /// Reads the files; nothing when the port speaks plain text.
    pub fn load(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        files.check()?;
        if !files.is_used() {
            return Ok(None);
        }
        Ok(Some(Self { config: Reloading::load(files, TlsFiles::server_config)?, checks_addresses: false }))
    }

    /// The same for the port of peers, whose certificates must be for the addresses they connect from.
    pub fn load_for_peers(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        let checks_addresses = !files.skip_client_san_verification;
        Ok(Self::load(files)?.map(|tls| Self { checks_addresses, ..tls }))
    }

    /// Refuses a certificate that may not be shown from this address. Who has none is on this machine.
    pub async fn check_address(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        remote: Option<IpAddr>,
    ) -> Result<(), AddressError> {
        let Some(remote) = remote else { return Ok(()) };
        let Some(certificate) = certificate.filter(|_| self.checks_addresses) else { return Ok(()) };
        let names = Names::of(certificate)?;
        if names.is_for(remote) {
            return Ok(());
        }
        let looked_up = tokio::task::spawn_blocking(move || names.check(remote, &SystemLookup)).await;
        looked_up.map_err(|error| AddressError::Lookup(error.to_string()))?
    }

    /// The acceptor to use for the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.get())
    }
}

/// The client's side towards peers.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<Reloading<ClientConfig>>,
}

impl ClientTls {
    /// Reads the files; nothing when peers speak plain text.
    pub fn load(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        files.check()?;
        if !files.is_used() {
            return Ok(None);
        }
        Ok(Some(Self { config: Arc::new(Reloading::load(files, TlsFiles::client_config)?) }))
    }

    /// For a client that is no member: the authority's file is all that is needed.
    pub fn for_client(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(Reloading::load(files, TlsFiles::client_config)?) })
    }

    /// A channel that connects when it is first used, with the certificates of that time.
    pub fn connect_lazy(&self, endpoint: Endpoint) -> Channel {
        let config = self.config.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
            let config = config.clone();
            async move { connect(&config.get(), &uri).await.map(TokioIo::new) }
        }))
    }
}

async fn connect(
    config: &Arc<ClientConfig>,
    uri: &http::Uri,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// The common name of a certificate, as etcd's users are called; of several, the last, as in Go.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().last()?.as_str().ok()?;
    Some(name.to_owned())
}
