//! A server on an embedded store in a temporary folder, and a small HTTPS client for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::cli::Args;
use apiserver::server::{self, Handle};
use apiserver::storage::{self, embedded::EmbeddedStore};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use machinery::client::unverified;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The token of a cluster administrator.
pub const TOKEN: &str = "admin-token";
/// Longer than start-up takes on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(40);

type Https = hyper_rustls::HttpsConnector<HttpConnector>;

/// A running server and a way to talk to it.
pub struct Server {
    pub address: SocketAddr,
    client: Client<Https, Full<Bytes>>,
    shutdown: CancellationToken,
    _handle: Handle,
    _store: Store,
}

/// An embedded store in a folder that goes with its last user.
#[derive(Clone)]
pub struct Store {
    pub member: Arc<raft_store::Member>,
    pub folder: Arc<tempfile::TempDir>,
}

impl Store {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let member = raft_store::Member::start(raft_store::Config::embedded(folder.path().join("store")));
        Self { member: member.await.expect("embedded store"), folder: Arc::new(folder) }
    }
}

/// An answer: code, body as JSON (null when it is not JSON), body as text.
pub struct Answer {
    pub code: StatusCode,
    pub json: Value,
    pub text: String,
}

impl Server {
    /// Starts on a store of its own and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&Store::new().await, &[]).await
    }

    /// Starts on a store that others may share.
    pub async fn start_with(store: &Store, more: &[&str]) -> Self {
        Self::start_over(store, |store| store, more).await
    }

    /// Starts on what `wrap` makes of a store that others may share.
    pub async fn start_over(
        store: &Store,
        wrap: impl FnOnce(Arc<dyn storage::Store>) -> Arc<dyn storage::Store>,
        more: &[&str],
    ) -> Self {
        let server = Self::launch(store, wrap, more).await;
        server.ready().await;
        server
    }

    /// As [`Server::start_over`], but does not wait until it is ready.
    pub async fn launch(
        store: &Store,
        wrap: impl FnOnce(Arc<dyn storage::Store>) -> Arc<dyn storage::Store>,
        more: &[&str],
    ) -> Self {
        let tokens = store.folder.path().join("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},admin,admin,\"system:masters\"\n")).expect("token file");
        let flags = [
            "--secure-port=0".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", tokens.display()),
        ];
        let shutdown = CancellationToken::new();
        let flags = flags.into_iter().chain(more.iter().map(|flag| (*flag).to_owned()));
        let args = Args::from_flags(flags).expect("flags");
        let wrapped = wrap(Arc::new(EmbeddedStore::new(store.member.clone())));
        let options = args.options(wrapped).expect("options");
        let handle = server::Server::start(options, shutdown.clone()).await.expect("server");
        Self { address: handle.address, client: client(), shutdown, _handle: handle, _store: store.clone() }
    }

    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        loop {
            let answer = self.send(Method::GET, "/readyz", "", "").await;
            if answer.code == StatusCode::OK {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not ready: {}", answer.text);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One request; an empty content type means JSON.
    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: &str) -> Answer {
        let content_type = if content_type.is_empty() { "application/json" } else { content_type };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", content_type)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .expect("request");
        let response = self.client.request(request).await.expect("answer");
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { code, json: serde_json::from_slice(&bytes).unwrap_or(Value::Null), text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "", &body.to_string()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn client() -> Client<Https, Full<Bytes>> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(unverified::config())
        .https_only()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new()).build(connector)
}
