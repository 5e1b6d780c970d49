//! Flags named as kube-apiserver's, where the meaning exists.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use machinery::flags::Given;
use tokio_util::sync::CancellationToken;

use crate::alloc::{PortRange, ServiceNetworks};
use crate::bootstrap;
use crate::http::tls::{Source, Spoken};
use crate::inert_flags::{KubeApiserver, Refused, refusal};
use crate::registry::COLLECTION_WORKERS;
use crate::registry::builtin::is_stored_as;
use crate::registry::served::Served;
use crate::server::{Elsewhere, Handle, Options, Server};
use crate::storage::Store;
use crate::storage::embedded::EmbeddedStore;
use crate::storage::overrides::{self, Override};
use crate::storage::remote::{RemoteConfig, RemoteStore};
use crate::subresources::kubelet::KubeletConfig;

/// Anything that stops a server from starting.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Flags of `quarterdeck apiserver`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Store endpoints, comma separated: `https://10.0.0.1:2379,…`.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Instead of `--etcd-servers`: keep the state in a one-member store inside this process, in this folder.
    #[arg(long, conflicts_with = "etcd_servers")]
    pub embedded_store_dir: Option<PathBuf>,
    /// `group/resource#server;server`, comma separated: stores of their own for built-in resources, such as
    /// `/events#https://10.0.0.9:2379`.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers_overrides: Vec<String>,
    /// Where objects lie in the store; nothing else can be chosen.
    #[arg(long, default_value = STORE_PREFIX, value_parser = store_prefix)]
    pub etcd_prefix: String,
    /// What kind of store it is; nothing else can be chosen.
    #[arg(long, default_value = "etcd3", value_parser = ["etcd3", ""])]
    pub storage_backend: String,
    /// Authority of the store's serving certificates.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// How often old revisions are compacted, such as `5m0s`; 0 for never.
    #[arg(long, default_value = "5m0s", value_parser = duration)]
    pub etcd_compaction_interval: Duration,
    /// How long events are kept.
    #[arg(long, default_value = "1h0m0s", value_parser = duration)]
    pub event_ttl: Duration,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Where members of the cluster reach this server; found out when not given.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Serving certificate; self-signed in `--cert-dir` when not given.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// `VersionTLS12` or `VersionTLS13`; older versions are never spoken.
    #[arg(long, default_value = "VersionTLS12", value_parser = ["VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13", ""])]
    pub tls_min_version: String,
    /// Suites of TLS 1.2 by Go's names; those that are not spoken are passed over. Those of TLS 1.3 are always there.
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub disable_http2_serving: bool,
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
    #[command(flatten)]
    pub oidc: crate::authn::oidc::Flags,
    /// A file of kind AuthenticationConfiguration, in place of the --oidc flags.
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    #[arg(long, value_parser = duration)]
    pub service_account_max_token_expiration: Option<Duration>,
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "10.0.0.0/24")]
    pub service_cluster_ip_range: Vec<ipnet::IpNet>,
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    #[arg(long, value_delimiter = ',', default_value = "AlwaysAllow")]
    pub authorization_mode: Vec<String>,
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-uid")]
    pub requestheader_uid_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub kubelet_preferred_address_types: Vec<String>,
    /// The identity of requests passed on to aggregated servers; accepted, not used yet by any resource.
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Steps to add to the default chain. All that are here are on unless disabled; a warning tells those of upstream's
    /// that are not.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    pub request_timeout: Duration,
    /// Seconds that a watch lasts at least, and at most twice, unless its client asks for a time of its own.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// How long requests are served on after the end was asked for, while /readyz says so.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub shutdown_delay_duration: Duration,
    /// Deletions of one collection in flight at the same time.
    #[arg(long, default_value_t = COLLECTION_WORKERS)]
    pub delete_collection_workers: usize,
    /// Whether containers may be privileged.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub allow_privileged: bool,
    /// Profiles of this process at `/debug/pprof/`.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub profiling: bool,
    /// Where OIDC discovery sends for the keys; this server when not given.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// `Name=true|false`, comma separated; here features are either there or not, so a warning tells each that is passed over.
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// `group/version=true|false`, comma separated, `api/all` for the rest: which of the built-in versions are served.
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Log verbosity as upstream counts it; `RUST_LOG` says more.
    #[arg(long, short, default_value_t = 0)]
    pub v: u8,
    #[command(flatten)]
    pub inert: Given<KubeApiserver>,
    #[command(flatten)]
    pub refused: Given<Refused>,
}

/// Where upstream lays everything out.
const STORE_PREFIX: &str = "/registry";

fn store_prefix(text: &str) -> Result<String, String> {
    match text.trim_end_matches('/') {
        STORE_PREFIX => Ok(STORE_PREFIX.to_owned()),
        _ => Err(format!("objects lie under {STORE_PREFIX} and nowhere else")),
    }
}

/// A duration as Go writes it.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = machinery::time::duration::parse(text)?;
    Duration::try_from(parsed).map_err(|e| format!("duration {text:?}: {e}"))
}

/// `Args` as a command of its own, for parsing flag lists.
#[derive(Parser)]
#[command(name = "apiserver")]
struct Command {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// Parses flags such as `["--secure-port=6443", …]` (no program name in front).
    pub fn from_flags(flags: impl IntoIterator<Item = String>) -> Result<Self, clap::Error> {
        let argv = std::iter::once(OsString::from("apiserver")).chain(flags.into_iter().map(OsString::from));
        let matches = Command::command().try_get_matches_from(argv)?;
        Ok(Command::from_arg_matches(&matches)?.args)
    }

    fn advertise(&self) -> IpAddr {
        // As upstream: other machines cannot reach a loopback address, so it is not advertised.
        let bound = Some(self.bind_address).filter(|a| !a.is_unspecified() && !a.is_loopback());
        self.advertise_address.or(bound).unwrap_or_else(outward_address)
    }

    fn meaning(&self) -> bootstrap::Options {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("{}-{}", host.trim(), self.secure_port);
        let defaults = bootstrap::Options::new(name, self.advertise(), self.secure_port);
        let issuers = match self.service_account_issuer.is_empty() {
            true => defaults.service_account_issuers.clone(),
            false => self.service_account_issuer.clone(),
        };
        bootstrap::Options {
            anonymous_auth: self.anonymous_auth,
            authentication_config: self.authentication_config.clone(),
            oidc: self.oidc.clone(),
            client_ca_file: self.client_ca_file.clone(),
            token_auth_file: self.token_auth_file.clone(),
            enable_bootstrap_token_auth: self.enable_bootstrap_token_auth,
            requestheader_client_ca_file: self.requestheader_client_ca_file.clone(),
            requestheader_allowed_names: self.requestheader_allowed_names.clone(),
            requestheader_username_headers: self.requestheader_username_headers.clone(),
            requestheader_uid_headers: self.requestheader_uid_headers.clone(),
            requestheader_group_headers: self.requestheader_group_headers.clone(),
            requestheader_extra_headers_prefix: self.requestheader_extra_headers_prefix.clone(),
            service_account_issuers: issuers,
            service_account_signing_key_file: self.service_account_signing_key_file.clone(),
            service_account_key_files: self.service_account_key_file.clone(),
            service_account_max_token_expiration_secs: self
                .service_account_max_token_expiration
                .and_then(|d| i64::try_from(d.as_secs()).ok()),
            service_account_extend_token_expiration: self.service_account_extend_token_expiration,
            api_audiences: self.api_audiences.clone(),
            authorization_modes: self.authorization_mode.clone(),
            enable_admission_plugins: self.enable_admission_plugins.clone(),
            disable_admission_plugins: self.disable_admission_plugins.clone(),
            allow_privileged: self.allow_privileged,
            default_not_ready_toleration_secs: self.default_not_ready_toleration_seconds,
            default_unreachable_toleration_secs: self.default_unreachable_toleration_seconds,
            ..defaults
        }
    }

    /// What these flags say of a server over `store`.
    ///
    /// # Errors
    /// When a flag's value, or a file that it names, cannot be used.
    pub fn options(&self, store: Arc<dyn Store>) -> Result<Options, Failure> {
        let node_ports: PortRange =
            self.service_node_port_range.parse().map_err(|e| format!("--service-node-port-range: {e}"))?;
        if let Some(sentence) = refusal(&self.refused.names()) {
            return Err(sentence.into());
        }
        self.inert.warn();
        for gate in &self.feature_gates {
            tracing::warn!(gate, "--feature-gates: passed over; what is here cannot be switched");
        }
        Ok(Options {
            store,
            elsewhere: self.elsewhere()?,
            served: Served::parse(&self.runtime_config)?,
            profiling: self.profiling,
            jwks_uri: self.service_account_jwks_uri.clone(),
            bind: SocketAddr::new(self.bind_address, self.secure_port),
            tls: self.tls()?,
            spoken: Spoken {
                newest_only: self.tls_min_version == "VersionTLS13",
                suites: self.tls_cipher_suites.clone(),
                http2: !self.disable_http2_serving,
            },
            meaning: self.meaning(),
            networks: ServiceNetworks { networks: self.service_cluster_ip_range.clone() },
            node_ports,
            kubelet: KubeletConfig {
                authority: self.kubelet_certificate_authority.clone(),
                certificate: self.kubelet_client_certificate.clone(),
                key: self.kubelet_client_key.clone(),
                address_types: self.kubelet_preferred_address_types.clone(),
            },
            max_readonly_inflight: self.max_requests_inflight,
            max_mutating_inflight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            min_request_timeout: Duration::from_secs(self.min_request_timeout),
            shutdown_delay: self.shutdown_delay_duration,
            delete_collection_workers: self.delete_collection_workers,
            event_ttl: self.event_ttl,
            compaction_interval: self.etcd_compaction_interval,
        })
    }

    fn tls(&self) -> Result<Source, Failure> {
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(cert), Some(key)) => Ok(Source::Files { cert: cert.clone(), key: key.clone() }),
            (None, None) => self.self_signed(),
            _ => Err("--tls-cert-file and --tls-private-key-file go together".into()),
        }
    }

    /// A certificate for clients that do not verify, as upstream makes when none is given.
    fn self_signed(&self) -> Result<Source, Failure> {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.push(self.advertise().to_string());
        names.push("127.0.0.1".to_owned());
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Source::Pem { cert: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    fn remote(&self) -> RemoteConfig {
        RemoteConfig {
            endpoints: self.etcd_servers.clone(),
            ca_file: self.etcd_cafile.clone(),
            cert_file: self.etcd_certfile.clone(),
            key_file: self.etcd_keyfile.clone(),
        }
    }
}

impl Args {
    /// The stores that built-in resources have of their own.
    fn elsewhere(&self) -> Result<Vec<Elsewhere>, Failure> {
        let stores = overrides::parse(&self.etcd_servers_overrides)?;
        let strangers = stores.iter().flat_map(|store| &store.resources).filter(|(g, r)| !is_stored_as(g, r));
        if let Some((group, resource)) = strangers.into_iter().next() {
            let what =
                format!("--etcd-servers-overrides: no built-in objects are stored as {group}/{resource}");
            return Err(format!("{what}; events of every group are /events").into());
        }
        let open = |store: Override| -> Result<Elsewhere, Failure> {
            let remote = RemoteConfig { endpoints: store.servers, ..self.remote() };
            Ok(Elsewhere { store: Arc::new(RemoteStore::new(&remote)?), resources: store.resources })
        };
        stores.into_iter().map(open).collect()
    }
}

/// The address this machine would reach others from; no packet is sent.
fn outward_address() -> IpAddr {
    let probe = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        // A documentation address: connecting a datagram socket only picks the route.
        socket.connect(("192.0.2.1", 9))?;
        Ok(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Starts a server on the embedded store, or on `--etcd-servers` when there is none.
pub async fn start(
    args: Args,
    store: Option<Arc<raft_store::Member>>,
    shutdown: CancellationToken,
) -> Result<Handle, Failure> {
    let store: Arc<dyn Store> = match store {
        Some(member) => Arc::new(EmbeddedStore::new(member)),
        None => Arc::new(RemoteStore::new(&args.remote())?),
    };
    Ok(Server::start(args.options(store)?, shutdown).await?)
}

/// Runs a server on `--etcd-servers`, or on a store of its own, until `shutdown`.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), Failure> {
    let member = match &args.embedded_store_dir {
        Some(folder) => Some(raft_store::Member::start(raft_store::Config::embedded(folder)).await?),
        None => None,
    };
    let handle = start(args, member.clone(), shutdown).await?;
    tracing::info!(address = %handle.address, "the API server listens");
    handle.stopped().await;
    if let Some(member) = member {
        member.shutdown().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
