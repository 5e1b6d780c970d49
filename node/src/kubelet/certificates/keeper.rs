//! Gets the node its client, with a certificate where one must be asked for, and keeps certificates current.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::config::{AuthInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedContext};
use kube::{Client, Config as KubeConfig};
use tokio_util::sync::CancellationToken;

use super::files::{self, validity};
use super::identity::Identity;
use super::request::{CLIENT_SIGNER, RequestError, SERVING_SIGNER, Wanted, request};
use super::transport::Transport;
use crate::cli::KubeletArgs;
use crate::kubelet::config::Config;
use crate::kubelet::server::tls::{Serving, TlsError, read_key_pair};
use crate::whole_file;

/// The name of the client certificate's files.
const CLIENT: &str = "kubelet-client";
/// The name of the serving certificate's files.
const SERVER: &str = "kubelet-server";
/// How often certificates are looked at: they are due at a known time, but others may replace their files.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// And no more often than this, however short they live.
const LOOK_PERIOD_MIN: Duration = Duration::from_secs(1);
/// Pause before a certificate is asked for again.
const RETRY: Duration = Duration::from_secs(2);

/// The node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Neither flag names a usable file.
    #[error("--kubeconfig is missing (with --bootstrap-kubeconfig it says where the new one is written)")]
    NoKubeconfig,
    /// A kubeconfig cannot be used.
    #[error("{path}: {source}")]
    Kubeconfig {
        /// Which.
        path: String,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// A client cannot be made of it.
    #[error("client set-up: {0}")]
    Client(String),
    /// The token fired while waiting.
    #[error("stopped before the node had its certificate: {0}")]
    Stopped(RequestError),
    /// A file cannot be written or used.
    #[error("{path}: {text}")]
    File {
        /// Which.
        path: String,
        /// Why.
        text: String,
    },
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The API as this node, and the certificate it shows where that can be renewed.
pub struct NodeClient {
    /// The client.
    pub client: Client,
    renewable: Option<(Arc<Identity>, Transport)>,
}

fn file_error(path: &Path, error: impl std::fmt::Display) -> CertificateError {
    CertificateError::File { path: path.display().to_string(), text: error.to_string() }
}

fn read(path: &Path) -> Result<Kubeconfig, CertificateError> {
    Kubeconfig::read_from(path)
        .map_err(|source| CertificateError::Kubeconfig { path: path.display().to_string(), source })
}

async fn load(path: &Path) -> Result<KubeConfig, CertificateError> {
    let file = read(path)?;
    KubeConfig::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|source| CertificateError::Kubeconfig { path: path.display().to_string(), source })
}

/// The client as this node; asks for its certificate first where there is none that lives.
pub async fn client(
    args: &KubeletArgs,
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<NodeClient, CertificateError> {
    let fixed = |client| NodeClient { client, renewable: None };
    let path = args.kubeconfig.clone().ok_or(CertificateError::NoKubeconfig)?;
    let Some(bootstrap) = &args.bootstrap_kubeconfig else {
        return plain_client(load(&path).await?).map(fixed);
    };
    let pair = files::current(&config.cert_dir, CLIENT);
    let alive = validity(&pair).is_some_and(|v| v.to > Timestamp::now());
    if path.exists() && !pair.exists() {
        // Somebody gave the node an identity of another kind: it is used as it is.
        return plain_client(load(&path).await?).map(fixed);
    }
    if !alive {
        first_certificate(bootstrap, config, shutdown).await?;
    }
    write_kubeconfig(bootstrap, &path, &pair)?;
    renewable_client(load(&path).await?, &pair)
}

fn plain_client(config: KubeConfig) -> Result<Client, CertificateError> {
    let is_usual = config.proxy_url.is_none() && config.tls_server_name.is_none();
    let client = if is_usual {
        Transport::client(config, None).map(|(client, _)| client)
    } else {
        Client::try_from(config)
    };
    client.map_err(|e| CertificateError::Client(e.to_string()))
}

/// A client whose certificate can be replaced.
fn renewable_client(config: KubeConfig, pair: &Path) -> Result<NodeClient, CertificateError> {
    let identity = Identity::new(read_key_pair(pair, pair)?);
    let (client, transport) = Transport::client(config, Some(Arc::clone(&identity)))
        .map_err(|e| CertificateError::Client(e.to_string()))?;
    Ok(NodeClient { client, renewable: Some((identity, transport)) })
}

fn client_certificate(config: &Config) -> Wanted {
    Wanted { node_name: config.node_name.clone(), signer: CLIENT_SIGNER, names: vec![], ips: vec![] }
}

async fn first_certificate(
    bootstrap: &Path,
    config: &Config,
    shutdown: &CancellationToken,
) -> Result<(), CertificateError> {
    let client = plain_client(load(bootstrap).await?)?;
    loop {
        let error = match request(&client, &client_certificate(config)).await {
            Ok(issued) => {
                let saved = files::save(
                    &config.cert_dir,
                    CLIENT,
                    &issued.chain_pem,
                    &issued.key_pem,
                    Timestamp::now(),
                );
                return saved.map(drop).map_err(|e| file_error(&config.cert_dir, e));
            }
            Err(error) => error,
        };
        tracing::warn!(%error, "the node has no certificate yet");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.cancelled() => return Err(CertificateError::Stopped(error)),
        }
    }
}

/// The kubeconfig of the node: the bootstrap file's cluster, the certificate's files.
fn write_kubeconfig(bootstrap: &Path, path: &Path, pair: &Path) -> Result<(), CertificateError> {
    let mut file = read(bootstrap)?;
    let cluster = file
        .current_context
        .as_ref()
        .and_then(|name| file.contexts.iter().find(|c| c.name == *name))
        .and_then(|c| c.context.as_ref())
        .map(|c| c.cluster.clone())
        .or_else(|| file.clusters.first().map(|c| c.name.clone()))
        .unwrap_or_default();
    let shown = pair.display().to_string();
    file.auth_infos = vec![NamedAuthInfo {
        name: "default-auth".into(),
        auth_info: Some(AuthInfo {
            client_certificate: Some(shown.clone()),
            client_key: Some(shown),
            ..Default::default()
        }),
        other: Default::default(),
    }];
    file.contexts = vec![NamedContext {
        name: "default-context".into(),
        context: Some(Context { cluster, user: Some("default-auth".into()), ..Default::default() }),
        other: Default::default(),
    }];
    file.current_context = Some("default-context".into());
    let text = serde_yaml_ng::to_string(&file).map_err(|e| file_error(path, e))?;
    whole_file::replace(path, text.as_bytes()).map_err(|e| file_error(path, e))
}

/// Renews certificates before they end, until the token fires.
pub async fn keep_current(
    node: NodeClient,
    config: Config,
    args: KubeletArgs,
    serving: Arc<Serving>,
    shutdown: CancellationToken,
) {
    let bootstrap = args.bootstrap_kubeconfig.as_deref().filter(|_| args.rotate_certificates.unwrap_or(true));
    let mut keeper = Keeper { node, config, serving, served: false };
    let renewing = async {
        loop {
            let pause = keeper.look(bootstrap).await;
            tokio::time::sleep(pause).await;
        }
    };
    shutdown.run_until_cancelled(renewing).await;
}

struct Keeper {
    node: NodeClient,
    config: Config,
    serving: Arc<Serving>,
    /// The serving certificate on disk is the one in use.
    served: bool,
}

impl Keeper {
    /// Renews what is due; how long until the next look.
    async fn look(&mut self, bootstrap: Option<&Path>) -> Duration {
        let mut due = Vec::new();
        if let Some(bootstrap) = bootstrap {
            if let Err(error) = self.renew_client(bootstrap).await {
                tracing::warn!(%error, "the client certificate was not renewed");
                return RETRY;
            }
            due.push(CLIENT);
        }
        if self.config.server_tls_bootstrap && self.config.server_auth.tls_cert_file.is_none() {
            if let Err(error) = self.renew_serving().await {
                tracing::warn!(%error, "there is no serving certificate of the cluster's yet");
                return RETRY;
            }
            due.push(SERVER);
        }
        let ends = due.iter().filter_map(|name| validity(&files::current(&self.config.cert_dir, name)));
        let next = ends.map(|v| v.renew_at().duration_since(Timestamp::now())).min();
        let pause = next.map_or(LOOK_PERIOD, |d| Duration::try_from(d).unwrap_or_default());
        pause.clamp(LOOK_PERIOD_MIN, LOOK_PERIOD)
    }

    async fn renew_client(&self, bootstrap: &Path) -> Result<(), CertificateError> {
        let pair = files::current(&self.config.cert_dir, CLIENT);
        let Some(life) = validity(&pair) else { return Ok(()) };
        let now = Timestamp::now();
        if now < life.renew_at() {
            return Ok(());
        }
        // The servers take an ended certificate no more: the node begins anew with its token.
        let client =
            if now < life.to { self.node.client.clone() } else { plain_client(load(bootstrap).await?)? };
        let pair = renew(&client, &self.config, CLIENT, &client_certificate(&self.config)).await?;
        if let Some((identity, transport)) = &self.node.renewable {
            identity.replace(read_key_pair(&pair, &pair)?);
            transport.renew();
        }
        tracing::info!("the client certificate was renewed");
        Ok(())
    }

    async fn renew_serving(&mut self) -> Result<(), CertificateError> {
        let pair = files::current(&self.config.cert_dir, SERVER);
        if validity(&pair).is_some_and(|v| Timestamp::now() < v.renew_at()) {
            if !std::mem::replace(&mut self.served, true) {
                self.serving.replace(read_key_pair(&pair, &pair)?);
            }
            return Ok(());
        }
        let wanted = Wanted {
            node_name: self.config.node_name.clone(),
            signer: SERVING_SIGNER,
            names: vec![self.config.hostname.clone()],
            ips: self.config.node_ips.clone(),
        };
        let pair = renew(&self.node.client, &self.config, SERVER, &wanted).await?;
        self.serving.replace(read_key_pair(&pair, &pair)?);
        self.served = true;
        tracing::info!("the serving certificate was renewed");
        Ok(())
    }
}

async fn renew(
    client: &Client,
    config: &Config,
    name: &str,
    wanted: &Wanted,
) -> Result<PathBuf, CertificateError> {
    let issued = request(client, wanted).await.map_err(|e| file_error(&config.cert_dir, e))?;
    let saved = files::save(&config.cert_dir, name, &issued.chain_pem, &issued.key_pem, Timestamp::now());
    saved.map_err(|e| file_error(&config.cert_dir, e))
}
