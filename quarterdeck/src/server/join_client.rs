//! The joining side: find a server of the token that answers, make sure of it, ask.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::join::{CA_PATH, CLUSTER_PATH, JoinAnswer, JoinRequest, Refusal, SERVERS_PATH};
use crate::agent::memory::Cluster;
use crate::failure::{Failure, Result};
use crate::pki::authority::fingerprint;
use crate::token::JoinToken;

/// Longest wait for one server's answer; a member is added by a quorum write, so seconds are plenty.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Authorities and keys are a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The authority's certificate (PEM), from the first server that answers and whose certificate has the token's hash.
pub async fn fetch_ca(token: &JoinToken) -> Result<String> {
    first_answer(token, async |server| {
        let answer = call(server, unverified()?, "GET", CA_PATH, None, Vec::new()).await?;
        let pem = String::from_utf8(answer)?;
        if fingerprint(&pem)? == token.content.ca_hash {
            Ok(pem)
        } else {
            Err(Failure::new("its authority is not the one that the token names"))
        }
    })
    .await
}

/// The cluster's settings, over TLS verified against `ca`.
pub async fn fetch_cluster(token: &JoinToken, ca: &str) -> Result<Cluster> {
    first_answer(token, async |server| {
        let answer = call(server, verified(ca)?, "GET", CLUSTER_PATH, None, Vec::new()).await?;
        Ok(serde_json::from_slice(&answer)?)
    })
    .await
}

/// Asks to become a member, over TLS verified against `ca`.
pub async fn join(token: &JoinToken, ca: &str, request: &JoinRequest) -> Result<JoinAnswer> {
    let body = serde_json::to_vec(request)?;
    first_answer(token, async |server| {
        let answer =
            call(server, verified(ca)?, "POST", SERVERS_PATH, Some(&token.content.secret), body.clone())
                .await?;
        Ok(serde_json::from_slice(&answer)?)
    })
    .await
}

async fn first_answer<T>(token: &JoinToken, ask: impl AsyncFn(&str) -> Result<T>) -> Result<T> {
    let mut problems = Vec::new();
    for server in &token.content.servers {
        match tokio::time::timeout(ANSWER_TIMEOUT, ask(server)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(problem)) => problems.push(format!("{server}: {problem}")),
            Err(_) => problems.push(format!("{server}: no answer in {} s", ANSWER_TIMEOUT.as_secs())),
        }
    }
    Err(Failure::new(format!("no server of the token let this machine join: {}", problems.join("; "))))
}

async fn call(
    server: &str,
    config: ClientConfig,
    method: &str,
    path: &str,
    secret: Option<&str>,
    body: Vec<u8>,
) -> Result<Vec<u8>> {
    let stream = TcpStream::connect(server).await?;
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", server);
    if let Some(secret) = secret {
        request = request.header("authorization", format!("Bearer {secret}"));
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = answer.status();
    let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .to_bytes();
    if status.is_success() {
        return Ok(bytes.to_vec());
    }
    Err(match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(refusal) => Failure::new(refusal.error),
        Err(_) => Failure::new(format!("answered {status}")),
    })
}

fn verified(ca: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in rustls_pemfile::certs(&mut ca.as_bytes()) {
        roots.add(cert?)?;
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// For the one question whose answer is checked against the token's hash.
fn unverified() -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CheckedLater(provider)))
        .with_no_client_auth())
}

/// Accepts any certificate: the caller compares what it then hears with a hash it already trusts, and sends no secret.
#[derive(Debug)]
struct CheckedLater(Arc<CryptoProvider>);

impl ServerCertVerifier for CheckedLater {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
