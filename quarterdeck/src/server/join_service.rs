//! The running side of a join: a small HTTPS listener that gives out the authority's certificate to anybody, and
//! membership to holders of the server secret.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::directory;
use super::join::{CA_PATH, CLUSTER_PATH, JoinAnswer, JoinRequest, Refusal, SERVERS_PATH, secret_matches};
use super::layout::{Layout, State};
use super::options::nth_address;
use crate::agent::memory::Cluster;
use crate::failure::{Failure, Result};
use crate::pki::files::read_text;

/// A request is a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A connection that has not finished by then is closed.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The tenth service address is cluster DNS, as upstream's installers choose.
const DNS_ADDRESS: u32 = 10;

/// What a joining server gets: every authority with its key, and the service-account keys.
const SHARED_PKI: &[&str] = &[
    "ca.crt",
    "ca.key",
    "store-ca.crt",
    "store-ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
];

/// Adds members to the store's group.
#[async_trait]
pub trait Membership: Send + Sync {
    /// Adds the member, or takes it as added where name and URL are already known; refuses where that would put the
    /// quorum at risk. Returns the members in etcd's `name=url,…` notation.
    async fn add(&self, name: &str, peer_url: &str) -> Result<String>;
}

/// The service's state.
pub struct JoinService {
    pub layout: Layout,
    pub state: State,
    pub membership: Arc<dyn Membership>,
}

impl JoinService {
    /// Serves until cancelled.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "the join service could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            tokio::spawn(tokio::time::timeout(CONNECTION_TIMEOUT, self.clone().connection(stream)));
        }
    }

    /// Read afresh for every connection: they are few, and certificates are renewed while this runs.
    fn tls(&self) -> Result<rustls::ServerConfig> {
        let cert = read_text(&self.layout.pki_file("apiserver.crt"))?;
        let key = read_text(&self.layout.pki_file("apiserver.key"))?;
        let chain = rustls_pemfile::certs(&mut cert.as_bytes()).collect::<std::io::Result<Vec<_>>>()?;
        let key = rustls_pemfile::private_key(&mut key.as_bytes())?
            .ok_or_else(|| Failure::new("apiserver.key holds no private key"))?;
        Ok(rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?)
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let acceptor = match self.tls() {
            Ok(config) => TlsAcceptor::from(Arc::new(config)),
            Err(failure) => {
                tracing::error!(%failure, "the join service has no certificate");
                return;
            }
        };
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(move |request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a join connection broke");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, CA_PATH) => match read_text(&self.layout.pki_file("ca.crt")) {
                Ok(pem) => respond(StatusCode::OK, pem),
                Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error),
            },
            (&Method::GET, CLUSTER_PATH) => match self.cluster().await {
                Ok(cluster) => respond(StatusCode::OK, cluster),
                Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error),
            },
            (&Method::POST, SERVERS_PATH) => {
                let secret = request.headers().get("authorization").and_then(|value| value.to_str().ok());
                if !secret_matches(&self.state.server_secret, secret) {
                    let failure = Failure::new("the token's secret is not this cluster's").mend(
                        "get the server token with `quarterdeck token create --role server` on a server",
                    );
                    return refuse(StatusCode::UNAUTHORIZED, failure);
                }
                match self.admit(request).await {
                    Ok(answer) => respond(StatusCode::OK, answer),
                    Err(error) => refuse(StatusCode::CONFLICT, error),
                }
            }
            _ => refuse(StatusCode::NOT_FOUND, Failure::new(format!("nothing is served at {path}"))),
        }
    }

    async fn cluster(&self) -> Result<String> {
        let client = crate::ops::client_from(&self.layout.admin_kubeconfig()).await?;
        let mut servers = directory::list(&client).await?;
        servers.insert(self.state.name.clone(), self.state.reached_at.clone());
        let cluster = Cluster {
            cluster_id: self.state.cluster_id.clone(),
            api_urls: servers.into_values().map(|addresses| addresses.api_url).collect(),
            cluster_cidr: self.state.cluster_cidr.clone(),
            service_cidr: self.state.service_cidr.clone(),
            cluster_domain: self.state.cluster_domain.clone(),
            dns_address: nth_address(&self.state.service_cidr, DNS_ADDRESS)?,
        };
        Ok(serde_json::to_string(&cluster)?)
    }

    async fn admit(&self, request: Request<Incoming>) -> Result<String> {
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| Failure::new(format!("the request cannot be read: {error}")))?;
        let request: JoinRequest = serde_json::from_slice(&body.to_bytes())?;
        request.check(SystemTime::now())?;
        let mut pki = BTreeMap::new();
        for name in SHARED_PKI {
            pki.insert((*name).to_owned(), read_text(&self.layout.pki_file(name))?);
        }
        let members = self.membership.add(&request.name, &request.peer_url).await?;
        tracing::info!(name = request.name, peer_url = request.peer_url, "a server joins");
        let state = State {
            name: request.name,
            initial_cluster: members,
            initial_cluster_state: "existing".to_owned(),
            ..self.state.clone()
        };
        Ok(serde_json::to_string(&JoinAnswer { pki, state })?)
    }
}

fn respond(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

fn refuse(status: StatusCode, failure: Failure) -> Response<Full<Bytes>> {
    let (error, mend) = failure.into_parts();
    let refusal = Refusal { error, mend };
    respond(status, serde_json::to_string(&refusal).unwrap_or_default())
}
