//! Puts the meaning side of a server together from its flags: who, may they, admission, reviews, tokens, start-up.
//!
//! Two steps, because the registry needs the kinds before there is a cluster to read: [`Kinds::new`] with the
//! allocators first, [`Meaning::build`] with the finished cluster second.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::authentication::RequestHeader;
use super::{Config, rbac};
use crate::admission::{self, UnknownPlugin};
use crate::alloc::Allocators;
use crate::authn::bearer::TokenStep;
use crate::authn::bootstrap_token::BootstrapTokens;
use crate::authn::certificate::{AuthorityError, CertificateVerifier};
use crate::authn::oidc::{self, AuthenticationFile, Issuer, OidcTokens};
use crate::authn::service_account::ServiceAccountTokens;
use crate::authn::static_token::{StaticTokenError, StaticTokens};
use crate::authn::{self, BearerTokens, ClientCertificates, FrontProxy, Step};
use crate::authz::{NodeAuthorizer, PrivilegedGroup, RbacAuthorizer, Union};
use crate::contract::{AdmissionChain, Authenticator, Authorizer, ClusterWriter};
use crate::reviews::Reviews;
use crate::tokens::keys::{signing_key, verifying_keys};
use crate::tokens::{KeyError, TokenIssuer, VerifyingKey};

/// The flags that this side understands, named as upstream's.
#[derive(Clone, Debug)]
pub struct Options {
    pub anonymous_auth: bool,
    /// A file of kind AuthenticationConfiguration.
    pub authentication_config: Option<PathBuf>,
    pub oidc: oidc::Flags,
    pub client_ca_file: Option<PathBuf>,
    pub token_auth_file: Option<PathBuf>,
    pub enable_bootstrap_token_auth: bool,
    pub requestheader_client_ca_file: Option<PathBuf>,
    pub requestheader_allowed_names: Vec<String>,
    pub requestheader_username_headers: Vec<String>,
    pub requestheader_uid_headers: Vec<String>,
    pub requestheader_group_headers: Vec<String>,
    pub requestheader_extra_headers_prefix: Vec<String>,
    pub service_account_issuers: Vec<String>,
    pub service_account_signing_key_file: Option<PathBuf>,
    pub service_account_key_files: Vec<PathBuf>,
    pub service_account_max_token_expiration_secs: Option<i64>,
    pub service_account_extend_token_expiration: bool,
    /// Defaults to the issuers when empty.
    pub api_audiences: Vec<String>,
    /// `AlwaysAllow`, `Node`, `RBAC`, in order.
    pub authorization_modes: Vec<String>,
    pub enable_admission_plugins: Vec<String>,
    pub disable_admission_plugins: Vec<String>,
    pub allow_privileged: bool,
    pub default_not_ready_toleration_secs: i64,
    pub default_unreachable_toleration_secs: i64,
    pub server_name: String,
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    pub service_port: u16,
}

impl Options {
    /// Upstream's defaults, for a server reached at this address.
    pub fn new(server_name: impl Into<String>, advertise_address: IpAddr, secure_port: u16) -> Self {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Options {
            anonymous_auth: true,
            authentication_config: None,
            oidc: oidc::Flags::default(),
            client_ca_file: None,
            token_auth_file: None,
            enable_bootstrap_token_auth: false,
            requestheader_client_ca_file: None,
            requestheader_allowed_names: Vec::new(),
            requestheader_username_headers: list(&["x-remote-user"]),
            requestheader_uid_headers: list(&["x-remote-uid"]),
            requestheader_group_headers: list(&["x-remote-group"]),
            requestheader_extra_headers_prefix: list(&["x-remote-extra-"]),
            service_account_issuers: list(&["https://kubernetes.default.svc.cluster.local"]),
            service_account_signing_key_file: None,
            service_account_key_files: Vec::new(),
            service_account_max_token_expiration_secs: None,
            service_account_extend_token_expiration: true,
            api_audiences: Vec::new(),
            authorization_modes: list(&["Node", "RBAC"]),
            enable_admission_plugins: Vec::new(),
            disable_admission_plugins: Vec::new(),
            allow_privileged: true,
            default_not_ready_toleration_secs: admission::tolerations::TOLERATION_SECS,
            default_unreachable_toleration_secs: admission::tolerations::TOLERATION_SECS,
            server_name: server_name.into(),
            advertise_address,
            secure_port,
            service_port: 443,
        }
    }
}

/// Why the flags cannot be followed; the message names the file or flag to mend.
#[derive(Debug, thiserror::Error)]
pub enum MeaningError {
    #[error("{file}: cannot be read: {source}")]
    Read { file: String, source: std::io::Error },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Tokens(#[from] StaticTokenError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Plugin(#[from] UnknownPlugin),
    #[error(transparent)]
    Oidc(#[from] oidc::ConfigError),
    #[error(transparent)]
    OidcKeys(#[from] oidc::keys::KeysError),
    #[error("--authentication-config and the --oidc flags exclude each other")]
    TwoOidc,
    #[error("--authorization-mode {0:?} is unknown; known are AlwaysAllow, Node and RBAC")]
    Mode(String),
}

/// Everything that gives requests their meaning.
pub struct Meaning {
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub admission: Arc<dyn AdmissionChain>,
    pub reviews: Arc<Reviews>,
    /// The keys that the key set document shows.
    pub keys: Vec<VerifyingKey>,
    pub issuers: Vec<String>,
    pub start: Config,
    allocators: Arc<Allocators>,
    cluster: Arc<dyn ClusterWriter>,
}

impl Meaning {
    /// Reads the files that the options name and puts everything together.
    pub fn build(
        options: &Options,
        cluster: Arc<dyn ClusterWriter>,
        allocators: Arc<Allocators>,
    ) -> Result<Self, MeaningError> {
        let audiences = match options.api_audiences.is_empty() {
            true => options.service_account_issuers.clone(),
            false => options.api_audiences.clone(),
        };
        let keys = all_keys(options)?;
        let file = authentication_file(options)?;
        let bearer = Arc::new(bearer(options, &cluster, &keys, &audiences, &file)?);
        let rbac = Arc::new(RbacAuthorizer::new(cluster.clone()));
        let authorizer = authorizer(options, &cluster, &rbac)?;
        let admission = admission::build(admission::Config {
            authorizer: authorizer.clone(),
            rbac: rbac.clone(),
            not_ready_toleration_secs: options.default_not_ready_toleration_secs,
            unreachable_toleration_secs: options.default_unreachable_toleration_secs,
            enabled: options.enable_admission_plugins.clone(),
            disabled: options.disable_admission_plugins.clone(),
            allow_privileged: options.allow_privileged,
        })?;
        let reviews = Reviews {
            authorizer: authorizer.clone(),
            rbac,
            bearer: bearer.clone(),
            audiences: audiences.clone(),
            issuer: issuer(options, audiences)?.map(Arc::new),
        };
        Ok(Meaning {
            authenticator: Arc::new(authenticator(options, bearer, &file)?),
            authorizer,
            admission: Arc::new(admission),
            reviews: Arc::new(reviews),
            keys,
            issuers: options.service_account_issuers.clone(),
            start: start(options)?,
            allocators,
            cluster,
        })
    }

    /// Writes the start-up objects; returns when they are there.
    pub async fn bootstrap(&self, shutdown: &CancellationToken) {
        super::run(self.cluster.as_ref(), &self.allocators, &self.start, shutdown).await;
    }

    /// The loop that keeps lease, endpoints and allocations right; to be spawned.
    pub fn maintain(&self, shutdown: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        super::maintain(self.cluster.clone(), self.allocators.clone(), self.start.clone(), shutdown)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, MeaningError> {
    std::fs::read(path).map_err(|source| MeaningError::Read { file: path.display().to_string(), source })
}

fn read_text(path: Option<&PathBuf>) -> Result<String, MeaningError> {
    let Some(path) = path else { return Ok(String::new()) };
    Ok(String::from_utf8_lossy(&read(path)?).into_owned())
}

fn verifier(path: &Path) -> Result<CertificateVerifier, MeaningError> {
    Ok(CertificateVerifier::from_pem(&path.display().to_string(), &read(path)?)?)
}

/// The signing key's public half first, then those of the key files.
fn all_keys(options: &Options) -> Result<Vec<VerifyingKey>, MeaningError> {
    let mut keys: Vec<VerifyingKey> = Vec::new();
    for path in options.service_account_signing_key_file.iter().chain(&options.service_account_key_files) {
        for key in verifying_keys(&path.display().to_string(), &read(path)?)? {
            if keys.iter().all(|known| known.id != key.id) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

fn bearer(
    options: &Options,
    cluster: &Arc<dyn ClusterWriter>,
    keys: &[VerifyingKey],
    audiences: &[String],
    file: &AuthenticationFile,
) -> Result<BearerTokens, MeaningError> {
    let mut steps: Vec<Box<dyn TokenStep>> = Vec::new();
    if let Some(path) = &options.token_auth_file {
        steps.push(Box::new(StaticTokens::parse(&String::from_utf8_lossy(&read(path)?))?));
    }
    if !keys.is_empty() {
        steps.push(Box::new(ServiceAccountTokens {
            issuers: options.service_account_issuers.clone(),
            keys: keys.to_vec(),
            audiences: audiences.to_vec(),
            cluster: cluster.clone(),
        }));
    }
    if options.enable_bootstrap_token_auth {
        steps.push(Box::new(BootstrapTokens { cluster: cluster.clone() }));
    }
    for issuer in issuers(options, file)? {
        steps.push(Box::new(OidcTokens::new(issuer)?));
    }
    Ok(BearerTokens::new(steps))
}

/// What the file says; nothing where there is none.
fn authentication_file(options: &Options) -> Result<AuthenticationFile, MeaningError> {
    let Some(path) = &options.authentication_config else { return Ok(AuthenticationFile::default()) };
    if options.oidc != oidc::Flags::default() {
        return Err(MeaningError::TwoOidc);
    }
    Ok(AuthenticationFile::parse(&read_text(Some(path))?)?)
}

fn issuers(options: &Options, file: &AuthenticationFile) -> Result<Vec<Issuer>, MeaningError> {
    let authority_pem = read_text(options.oidc.ca_file.as_ref())?;
    let flags = oidc::Flags { authority_pem, ..options.oidc.clone() };
    Ok(flags.issuer()?.into_iter().chain(file.issuers.iter().cloned()).collect())
}

fn authenticator(
    options: &Options,
    bearer: Arc<BearerTokens>,
    file: &AuthenticationFile,
) -> Result<authn::Chain, MeaningError> {
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    if let Some(path) = &options.requestheader_client_ca_file {
        steps.push(Box::new(FrontProxy {
            verifier: verifier(path)?,
            allowed_names: options.requestheader_allowed_names.clone(),
            username_headers: options.requestheader_username_headers.clone(),
            uid_headers: options.requestheader_uid_headers.clone(),
            group_headers: options.requestheader_group_headers.clone(),
            extra_prefixes: options.requestheader_extra_headers_prefix.clone(),
        }));
    }
    if let Some(path) = &options.client_ca_file {
        steps.push(Box::new(ClientCertificates::new(verifier(path)?)));
    }
    steps.push(Box::new(bearer));
    let anonymous = authn::Anonymous {
        enabled: file.anonymous.unwrap_or(options.anonymous_auth),
        paths: file.anonymous_paths.clone(),
    };
    Ok(authn::Chain::new(steps, anonymous))
}

fn authorizer(
    options: &Options,
    cluster: &Arc<dyn ClusterWriter>,
    rbac: &Arc<RbacAuthorizer>,
) -> Result<Arc<dyn Authorizer>, MeaningError> {
    let mut members: Vec<Arc<dyn Authorizer>> = vec![Arc::new(PrivilegedGroup)];
    for mode in &options.authorization_modes {
        members.push(match mode.as_str() {
            "AlwaysAllow" => Arc::new(crate::authz::union::AlwaysAllow),
            "Node" => Arc::new(NodeAuthorizer::new(cluster.clone(), rbac::node_rules())),
            "RBAC" => rbac.clone(),
            unknown => return Err(MeaningError::Mode(unknown.to_owned())),
        });
    }
    Ok(Arc::new(Union::new(members)))
}

fn issuer(options: &Options, audiences: Vec<String>) -> Result<Option<TokenIssuer>, MeaningError> {
    let (Some(path), Some(issuer)) =
        (&options.service_account_signing_key_file, options.service_account_issuers.first())
    else {
        return Ok(None);
    };
    Ok(Some(TokenIssuer {
        issuer: issuer.clone(),
        key: signing_key(&path.display().to_string(), &read(path)?)?,
        audiences,
        expiration_max_secs: options.service_account_max_token_expiration_secs,
        extend_expiration: options.service_account_extend_token_expiration,
    }))
}

fn start(options: &Options) -> Result<Config, MeaningError> {
    Ok(Config {
        server_name: options.server_name.clone(),
        advertise_address: options.advertise_address,
        secure_port: options.secure_port,
        service_port: options.service_port,
        client_ca: read_text(options.client_ca_file.as_ref())?,
        request_header: RequestHeader {
            client_ca: read_text(options.requestheader_client_ca_file.as_ref())?,
            allowed_names: options.requestheader_allowed_names.clone(),
            username_headers: options.requestheader_username_headers.clone(),
            uid_headers: options.requestheader_uid_headers.clone(),
            group_headers: options.requestheader_group_headers.clone(),
            extra_prefixes: options.requestheader_extra_headers_prefix.clone(),
        },
    })
}
