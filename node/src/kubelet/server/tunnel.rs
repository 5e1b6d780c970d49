//! Port-forward tunnels: the client speaks SPDY/3.1 inside binary WebSocket messages
//! (`SPDY/3.1+portforward.k8s.io`); the runtime speaks plain SPDY/3.1.

use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use hyper::body::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::respond::{Answer, full, text};
use super::streaming::{dial_spdy, offers};

/// What such clients ask for.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The protocol inside.
const INNER: &str = "portforward.k8s.io";
/// How much is read from the runtime at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// True if the client asks for a tunnel.
pub fn is_tunnel(headers: &HeaderMap) -> bool {
    offers(headers, TUNNEL)
}

/// Opens the runtime's side, answers the client's and joins them.
pub async fn answer(target: &Uri, headers: &HeaderMap, client: OnUpgrade) -> Answer {
    let runtime = match dial_spdy(target, INNER).await {
        Ok(runtime) => runtime,
        Err(refusal) => return *refusal,
    };
    let answer = match switching(headers, TUNNEL) {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    tokio::spawn(async move {
        if let (Ok(client), Ok(runtime)) = (client.await, runtime.await) {
            pump(client, runtime).await;
        }
    });
    answer
}

/// The answer that switches a client to WebSocket with this protocol.
pub fn switching(client: &HeaderMap, protocol: &'static str) -> Result<Answer, Box<Answer>> {
    let refusal = |why: &str| Box::new(text(StatusCode::BAD_REQUEST, why));
    let key = client.get(SEC_WEBSOCKET_KEY).ok_or_else(|| refusal("a WebSocket request needs a key\n"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept.map_err(|_| refusal("unusable WebSocket key\n"))?;
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(answer)
}

async fn pump(client: hyper::upgrade::Upgraded, runtime: hyper::upgrade::Upgraded) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(data) => to_runtime.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_runtime.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = from_runtime.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                break;
            }
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
            if to_client.send(message).await.is_err() {
                break;
            }
        }
        let _ = to_client.close().await;
    };
    tokio::select! {
        done = inward => if let Err(error) = done { tracing::debug!(%error, "a tunnel ended early") },
        () = outward => {}
    }
}
