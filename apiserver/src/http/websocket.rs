//! Answers over WebSocket, for clients that cannot read a stream of HTTP chunks: watches (one message an event) and
//! logs. The answer is made as for HTTP; only its body travels in messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::body::{self, Body};
use crate::subresources::tunnel;

/// How an answer's bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// One text message a line.
    Lines,
    /// One binary message a length-delimited frame, without the length.
    Frames,
    /// Bytes as they come.
    Binary,
    /// The same as base64 text.
    Base64,
}

/// A client that asked for WebSocket.
pub struct Socket {
    upgrade: OnUpgrade,
    accept: String,
    protocol: Option<String>,
}

/// Takes the wish for WebSocket out of a request; `None` when it has none.
pub fn accept(request: &mut Request<Incoming>) -> Option<Socket> {
    let text = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let is_websocket = text(UPGRADE).is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
    if !is_websocket || !tunnel::is_upgrade(request.headers()) {
        return None;
    }
    let accept = derive_accept_key(text(SEC_WEBSOCKET_KEY)?.as_bytes());
    let protocol = text(SEC_WEBSOCKET_PROTOCOL).and_then(choose);
    let upgrade = hyper::upgrade::on(&mut *request);
    for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION] {
        request.headers_mut().remove(name);
    }
    Some(Socket { upgrade, accept, protocol })
}

/// The protocol to agree on: one that says how logs are framed, else whatever single one is offered.
fn choose(offered: &str) -> Option<String> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    let known = offered.iter().find(|p| matches!(**p, "binary.k8s.io" | "base64.binary.k8s.io"));
    known.or(offered.first().filter(|_| offered.len() == 1)).map(|p| (*p).to_owned())
}

impl Socket {
    /// The answer that switches protocols; a failure stays plain HTTP.
    pub fn answer(self, response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::OK {
            return response;
        }
        let content_type = response.headers().get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let framing = match (content_type, self.protocol.as_deref()) {
            (_, Some("base64.binary.k8s.io")) => Framing::Base64,
            (t, _) if t.starts_with("application/vnd.kubernetes.protobuf") => Framing::Frames,
            (t, _) if t.starts_with("application/json") => Framing::Lines,
            _ => Framing::Binary,
        };
        let (upgrade, content) = (self.upgrade, response.into_body());
        tokio::spawn(async move {
            if let Err(error) = pump(upgrade, content, framing).await {
                tracing::debug!(%error, "a WebSocket ended with an error");
            }
        });
        switching(&self.accept, self.protocol.as_deref())
    }
}

/// The answer that agrees to a WebSocket.
pub fn switching(accept: &str, protocol: Option<&str>) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let rest = [(SEC_WEBSOCKET_ACCEPT, Some(accept)), (SEC_WEBSOCKET_PROTOCOL, protocol)];
    for (name, value) in rest {
        if let Some(value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

type PumpError = Box<dyn std::error::Error + Send + Sync>;

/// Sends the body until it ends or the client leaves; leaving drops the body, which ends a watch.
async fn pump(upgrade: OnUpgrade, mut content: Body, framing: Framing) -> Result<(), PumpError> {
    let io = TokioIo::new(upgrade.await?);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let (mut sink, mut incoming) = socket.split();
    let mut waiting = BytesMut::new();
    loop {
        tokio::select! {
            frame = content.frame() => {
                let Some(Ok(frame)) = frame else { break };
                let Ok(data) = frame.into_data() else { continue };
                waiting.extend_from_slice(&data);
                while let Some(message) = next_message(&mut waiting, framing) {
                    sink.feed(message).await?;
                }
                sink.flush().await?;
            }
            message = incoming.next() => match message {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Err(Error::ConnectionClosed)) => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                // What clients say has no meaning here; pings are answered by the library.
                Some(Ok(_)) => {}
            },
        }
    }
    sink.send(Message::Close(None)).await?;
    Ok(())
}

/// Cuts the next whole message off the front.
fn next_message(waiting: &mut BytesMut, framing: Framing) -> Option<Message> {
    let text = |bytes: &[u8]| Message::text(String::from_utf8_lossy(bytes).into_owned());
    match framing {
        Framing::Lines => {
            let end = waiting.iter().position(|b| *b == b'\n')?;
            Some(text(&waiting.split_to(end + 1)))
        }
        Framing::Frames => {
            let len = usize::try_from(u32::from_be_bytes(waiting.get(..4)?.try_into().ok()?)).ok()?;
            if waiting.len() < 4 + len {
                return None;
            }
            waiting.advance(4);
            Some(Message::binary(waiting.split_to(len).freeze()))
        }
        _ if waiting.is_empty() => None,
        Framing::Binary => Some(Message::binary(Bytes::from(waiting.split()))),
        Framing::Base64 => Some(text(STANDARD.encode(waiting.split()).as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_events() {
        let check = |framing, bytes: &[u8], expected: &[&[u8]], rest: usize| {
            let mut waiting = BytesMut::from(bytes);
            let mut found: Vec<Vec<u8>> = Vec::new();
            while let Some(message) = next_message(&mut waiting, framing) {
                found.push(message.into_data().to_vec());
            }
            assert_eq!(
                (found.iter().map(Vec::as_slice).collect::<Vec<_>>(), waiting.len()),
                (expected.to_vec(), rest),
                "{framing:?}"
            );
        };
        check(Framing::Lines, b"a\nbc\nd", &[b"a\n", b"bc\n"], 1);
        check(Framing::Frames, b"\0\0\0\x02ab\0\0\0\x03a", &[b"ab"], 5);
        check(Framing::Binary, b"abc", &[b"abc"], 0);
        check(Framing::Base64, b"abc", &[b"YWJj"], 0);
    }

    #[test]
    fn protocols() {
        for (offered, chosen) in [
            ("binary.k8s.io", Some("binary.k8s.io")),
            ("a, base64.binary.k8s.io", Some("base64.binary.k8s.io")),
            ("a", Some("a")),
            ("a,b", None),
        ] {
            assert_eq!(choose(offered).as_deref(), chosen, "{offered}");
        }
    }
}
