//! The load generator's client: HTTP/1.1 over TLS on a connection of its own, as light as it can be, because it shares
//! the machine with what it measures.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use machinery::client::unverified;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Result;

/// The administrator's token on both sides.
pub const TOKEN: &str = "bench-admin-token";

fn connector() -> TlsConnector {
    static CONFIG: std::sync::OnceLock<Arc<ClientConfig>> = std::sync::OnceLock::new();
    let config = CONFIG.get_or_init(|| Arc::new(unverified::config()));
    TlsConnector::from(config.clone())
}

const JSON: &str = "application/json";

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    accept: &'static str,
    content_type: &'static str,
    body: Bytes,
}

impl Call {
    fn new(
        method: Method,
        path: impl Into<String>,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self { method, path: path.into(), accept: JSON, content_type, body: body.into() }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, JSON, Bytes::new())
    }

    pub fn post(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, path, JSON, body)
    }

    pub fn merge_patch(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(Method::PATCH, path, "application/merge-patch+json", body)
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, JSON, Bytes::new())
    }

    /// The same request for an answer in protobuf, as client-go's typed clients and kubelets ask.
    pub fn protobuf(self) -> Self {
        Self { accept: "application/vnd.kubernetes.protobuf", ..self }
    }
}

/// One connection; one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When the server does not accept.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = connector().connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the server's or this side's end of the connection; requests report what went wrong.
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_string() })
    }

    async fn send(&mut self, call: Call) -> Result<(StatusCode, Incoming)> {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("accept", call.accept)
            .header("content-type", call.content_type)
            .body(Full::new(call.body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        Ok((response.status(), response.into_body()))
    }

    /// One request; the answer's length in bytes.
    ///
    /// # Errors
    /// When the answer is not a success; its text says why.
    pub async fn call(&mut self, call: Call) -> Result<u64> {
        let path = call.path.clone();
        let (status, mut answer) = self.send(call).await?;
        if !status.is_success() {
            let text = answer.collect().await?.to_bytes();
            return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&text)).into());
        }
        let mut len = 0;
        while let Some(frame) = answer.frame().await {
            len += frame?.data_ref().map_or(0, Bytes::len) as u64;
        }
        Ok(len)
    }

    /// One request whose answer is wanted as a tree.
    ///
    /// # Errors
    /// As [`Connection::call`], and when the answer is not JSON.
    pub async fn read(&mut self, path: &str) -> Result<serde_json::Value> {
        let (status, answer) = self.send(Call::get(path)).await?;
        let text = answer.collect().await?.to_bytes();
        match status.is_success() {
            true => Ok(serde_json::from_slice(&text)?),
            false => Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&text)).into()),
        }
    }

    /// An endless answer: the body as it comes. The connection lives as long as the body.
    ///
    /// # Errors
    /// When the answer is not a success.
    pub async fn follow(mut self, path: &str) -> Result<(Self, Incoming)> {
        let (status, answer) = self.send(Call::get(path)).await?;
        match status.is_success() {
            true => Ok((self, answer)),
            false => Err(format!("{path}: {status}").into()),
        }
    }
}
