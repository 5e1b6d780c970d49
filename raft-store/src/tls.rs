//! TLS for both sides of both ports: certificate files, read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
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
    /// Common names that peers may have; empty for any.
    pub allowed_names: Vec<String>,
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

    fn server_identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Ok((read_certificates(cert)?, read_key(key)?)),
            (Some(cert), None) => Err(file_error(cert, "has no key file beside it: give --key-file too")),
            (None, _) => self.self_signed(),
        }
    }

    fn self_signed(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let dir = self.auto_tls_dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
        if !cert_path.exists() || !key_path.exists() {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let made = rcgen::generate_simple_self_signed(names).map_err(setup)?;
            fs::create_dir_all(&dir).map_err(|error| file_error(&dir, error))?;
            fs::write(&key_path, made.signing_key.serialize_pem())
                .map_err(|error| file_error(&key_path, error))?;
            fs::write(&cert_path, made.cert.pem()).map_err(|error| file_error(&cert_path, error))?;
        }
        Ok((read_certificates(&cert_path)?, read_key(&key_path)?))
    }

    fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let wants_client = self.client_cert_auth || self.trusted_ca_file.is_some() && !self.auto_tls;
        let builder = match &self.trusted_ca_file {
            Some(path) if wants_client => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(setup)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let (chain, key) = self.server_identity()?;
        let mut config = builder.with_single_cert(chain, key).map_err(setup)?;
        config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let mut authorities = RootCertStore::empty();
        if let Some(path) = &self.trusted_ca_file {
            authorities = roots(path)?;
        } else if self.auto_tls {
            for certificate in self.self_signed()?.0 {
                authorities.add(certificate).map_err(setup)?;
            }
        }
        let builder = builder.with_root_certificates(authorities);
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

    fn newest_change(&self) -> Option<SystemTime> {
        let files = [
            &self.cert_file,
            &self.key_file,
            &self.trusted_ca_file,
            &self.client_cert_file,
            &self.client_key_file,
        ];
        files.into_iter().flatten().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max()
    }
}

/// A configuration made from files, made again when they change. A change that cannot be used is reported
/// and the old one stays.
struct Reloading<C> {
    files: TlsFiles,
    make: fn(&TlsFiles) -> Result<C, TlsError>,
    current: Mutex<(Arc<C>, Option<SystemTime>, Instant)>,
}

impl<C> Reloading<C> {
    fn load(files: &TlsFiles, make: fn(&TlsFiles) -> Result<C, TlsError>) -> Result<Self, TlsError> {
        let current = (Arc::new(make(files)?), files.newest_change(), Instant::now());
        Ok(Self { files: files.clone(), make, current: Mutex::new(current) })
    }

    fn get(&self) -> Arc<C> {
        let mut current = self.current.lock();
        if current.2.elapsed() > RELOAD_INTERVAL {
            current.2 = Instant::now();
            let changed = self.files.newest_change();
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
}

impl ServerTls {
    /// Reads the files; nothing when the port speaks plain text.
    pub fn load(files: &TlsFiles) -> Result<Option<Self>, TlsError> {
        if !files.is_used() {
            return Ok(None);
        }
        Ok(Some(Self { config: Reloading::load(files, TlsFiles::server_config)? }))
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

/// The common name of a certificate, as etcd's users are called.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
