//! A member that listens for clients, and plain HTTP to it.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use raft_store::{Config, Member};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::ports::free_port;

/// A member that listens for clients.
pub struct Listening {
    _dir: TempDir,
    /// The member.
    pub member: Arc<Member>,
    /// Its client URL.
    pub url: String,
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
        self.post_as("", path, body).await
    }

    /// The same, with a token.
    pub async fn post_as(&self, token: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let response = self.posted(token, path, body).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null))
    }

    /// The answer to a JSON request as it begins.
    pub async fn posted(&self, token: &str, path: &str, body: &str) -> http::Response<hyper::body::Incoming> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = http::Request::post(format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
        client.request(request).await.unwrap()
    }

    /// Gets a plain page.
    pub async fn get(&self, path: &str) -> (u16, String) {
        Self::get_at(&self.url, path).await
    }

    /// Gets one at another URL.
    pub async fn get_at(url: &str, path: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request =
            http::Request::get(format!("{url}{path}")).body(Full::<bytes::Bytes>::default()).unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}
