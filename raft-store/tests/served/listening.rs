//! A member that listens for clients, and plain HTTP to it.

use std::{net::TcpListener, sync::Arc};

use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use raft_store::{Config, Member};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// A member that listens for clients.
pub struct Listening {
    _dir: TempDir,
    /// The member.
    pub member: Arc<Member>,
    /// Its client URL.
    pub url: String,
}

/// A port nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Listening {
    /// Starts one on a free port.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("http://127.0.0.1:{}", free_port());
        let mut config = Config::embedded(dir.path());
        config.listen_client_urls = vec![url.clone()];
        config.advertise_client_urls = vec![url.clone()];
        change(&mut config);
        let member = Member::start(config).await.unwrap();
        Self { _dir: dir, member, url }
    }

    /// A gRPC connection.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url.clone()).unwrap().connect().await.unwrap()
    }

    /// Sends a JSON request to the gateway and gives its status and answer.
    pub async fn post(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = http::Request::post(format!("{}{path}", self.url))
            .body(Full::new(bytes::Bytes::from(body.to_owned())))
            .unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null))
    }

    /// Gets a plain page.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request =
            http::Request::get(format!("{}{path}", self.url)).body(Full::<bytes::Bytes>::default()).unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}
