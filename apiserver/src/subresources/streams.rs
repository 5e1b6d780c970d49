//! Streams of clients that speak newer protocols than nodes: commands over WebSocket v5 become SPDY streams, and
//! port-forward tunnels (SPDY inside WebSocket messages) become SPDY connections.
//!
//! Everything else is passed through by [`super::tunnel`]. Source: upstream `proxy/streamtranslator.go`, `streamtunnel.go`.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use machinery::remotecommand::{Channels, Outward, V4, V5, Wanted, failed};
use machinery::spdy;
use machinery::status::StatusError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::kubelet::{Destination, Kubelet};
use super::tunnel::{forwarded_headers, host_header};
use crate::http::body::{self, Body};
use crate::http::websocket::switching;
use crate::registry::options::Query;

/// Subprotocols of tunnels begin with this; the rest is the protocol inside.
const TUNNEL_PREFIX: &str = "SPDY/3.1+";
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Read from the node at once.
const BUFFER_BYTES: usize = 32 * 1024;
/// Frames back to the node that wait until a client's message has been written; pings come every few seconds.
const REPLIES_MAX: usize = 16;
/// As much of a refusal as is told to the client.
const REFUSAL_LEN_MAX: usize = 4096;
/// How often the node's side is asked whether it is there (upstream's client does the same).
const PING_PERIOD: Duration = Duration::from_secs(5);
/// A client that does not take the last message for this long is gone.
const FAREWELL: Duration = Duration::from_secs(10);

type Io = TokioIo<Upgraded>;
type Socket = WebSocketStream<Io>;
type ToClient = SplitSink<Socket, Message>;
type FromClient = SplitStream<Socket>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is to be made of a client's WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    Command,
    /// With the protocol inside.
    Tunnel(String),
}

/// Whether the request is one that nodes do not speak.
pub fn wanted(subresource: &str, headers: &HeaderMap) -> Option<Translation> {
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") || !headers.contains_key(SEC_WEBSOCKET_KEY) {
        return None;
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let mut offered = offered.flat_map(|v| v.split(',')).map(str::trim);
    match subresource {
        "exec" | "attach" => offered.any(|p| p == V5).then_some(Translation::Command),
        "portforward" => {
            let inner =
                offered.find_map(|p| p.strip_prefix(TUNNEL_PREFIX).filter(|p| p.ends_with(".k8s.io")));
            inner.map(|p| Translation::Tunnel(p.to_owned()))
        }
        _ => None,
    }
}

/// Answers a request for a stream by one to the node in the protocol it speaks.
pub async fn translate(
    kubelet: &Kubelet,
    to: &Destination,
    mut incoming: Request<Incoming>,
    path_and_query: &str,
    translation: Translation,
) -> Result<Response<Body>, StatusError> {
    let query = Query::parse(incoming.uri().query().unwrap_or_default());
    let key = incoming.headers().get(SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes()));
    let accept = key.ok_or_else(|| StatusError::bad_request("a WebSocket request needs a key"))?;
    let client = hyper::upgrade::on(&mut incoming);
    let protocol = match &translation {
        Translation::Command => V4,
        Translation::Tunnel(inner) => inner,
    };
    let request = spdy_request(incoming.headers(), to, path_and_query, protocol)?;
    let answer = kubelet.send(to, request).await;
    match translation {
        Translation::Tunnel(inner) => {
            let answer = answer?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok(super::tunnel::passed_back(answer));
            }
            spawn("tunnel", tunnel(client, answer));
            Ok(switching(&accept, Some(&format!("{TUNNEL_PREFIX}{inner}"))))
        }
        Translation::Command => {
            spawn("command", command(client, answer, asked(&query)));
            Ok(switching(&accept, Some(V5)))
        }
    }
}

fn spawn(what: &'static str, work: impl Future<Output = Result<(), Failure>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, what, "a translated stream ended with an error");
        }
    });
}

fn asked(query: &Query) -> Wanted {
    let [stdin, stdout, stderr, tty] = ["stdin", "stdout", "stderr", "tty"].map(|name| query.flag(name));
    Wanted { stdin, stdout, stderr, tty }
}

/// The client's request with its WebSocket taken out and SPDY put in.
fn spdy_request(
    headers: &HeaderMap,
    to: &Destination,
    path_and_query: &str,
    protocol: &str,
) -> Result<Request<Body>, StatusError> {
    let mut request = Request::new(body::empty());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path_and_query.parse().map_err(|e| StatusError::bad_request(format!("{e}")))?;
    let mut forwarded = forwarded_headers(headers, false);
    let own = ["sec-websocket-extensions", "content-length"].map(HeaderName::from_static);
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION].into_iter().chain(own) {
        forwarded.remove(name);
    }
    let protocol = HeaderValue::from_str(protocol).map_err(|e| StatusError::bad_request(e.to_string()))?;
    forwarded.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    forwarded.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    forwarded.insert(PROTOCOL_VERSION, protocol);
    forwarded.extend(host_header(to));
    *request.headers_mut() = forwarded;
    Ok(request)
}

/// What a side says that has nothing more to say.
fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") }))
}

async fn socket(client: OnUpgrade) -> Result<(ToClient, FromClient), Failure> {
    let io = TokioIo::new(client.await?);
    Ok(WebSocketStream::from_raw_socket(io, Role::Server, None).await.split())
}

/// SPDY's bytes in messages, and back, until one side ends.
async fn tunnel(client: OnUpgrade, mut answer: Response<Incoming>) -> Result<(), Failure> {
    let node = TokioIo::new(hyper::upgrade::on(&mut answer).await?);
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let (mut to_client, mut from_client) = socket(client).await?;
    let inward = async {
        while let Some(message) = from_client.next().await {
            match message? {
                Message::Binary(content) => to_node.write_all(&content).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok::<_, Failure>(to_node.shutdown().await?)
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let len = from_node.read(&mut buffer).await?;
            if len == 0 {
                return Ok::<_, Failure>(to_client.send(farewell()).await?);
            }
            to_client.send(Message::Binary(Bytes::copy_from_slice(&buffer[..len]))).await?;
        }
    };
    tokio::select! {
        done = inward => done,
        done = outward => done,
    }
}

/// One command: the client hears how it ended in every case.
async fn command(
    client: OnUpgrade,
    answer: Result<Response<Incoming>, StatusError>,
    wanted: Wanted,
) -> Result<(), Failure> {
    let (mut to_client, from_client) = socket(client).await?;
    let (mut channels, opening) = Channels::open(wanted);
    to_client.send(Message::Binary(channels.greeting())).await?;
    let last = match switched(answer).await {
        Err(why) => failed(&why),
        Ok(node) => {
            let (from_node, mut to_node) = tokio::io::split(node);
            to_node.write_all(&opening).await?;
            let (replies, waiting) = mpsc::channel(REPLIES_MAX);
            let closes = Channels::open(wanted).0;
            tokio::select! {
                ended = inward(from_client, to_node, &closes, waiting) => return ended,
                ended = outward(from_node, &mut to_client, &mut channels, replies) => match ended {
                    Ok(()) => channels.result(),
                    Err(error) => failed(&error.to_string()),
                },
            }
        }
    };
    let ending = async {
        to_client.send(Message::Binary(last)).await?;
        to_client.send(farewell()).await
    };
    Ok(tokio::time::timeout(FAREWELL, ending).await??)
}

/// The node's connection, or its refusal in words.
async fn switched(answer: Result<Response<Incoming>, StatusError>) -> Result<Io, String> {
    let mut answer = answer.map_err(|e| e.message().to_owned())?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(&mut answer).await;
        return upgraded.map(TokioIo::new).map_err(|e| format!("unable to upgrade connection: {e}"));
    }
    let status = answer.status();
    let content = http_body_util::Limited::new(answer.into_body(), REFUSAL_LEN_MAX).collect().await;
    let text = content.map(|c| String::from_utf8_lossy(&c.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(if text.is_empty() {
        format!("unable to upgrade connection: the node answered {status}")
    } else {
        format!("unable to upgrade connection: {text}")
    })
}

/// Client to node; also what [`outward`] has to answer. Ends when the client leaves, which ends the command.
async fn inward(
    mut from_client: FromClient,
    mut to_node: WriteHalf<Io>,
    channels: &Channels,
    mut replies: mpsc::Receiver<Vec<u8>>,
) -> Result<(), Failure> {
    let mut pings = tokio::time::interval(PING_PERIOD);
    let mut ping = 1;
    loop {
        let frames = tokio::select! {
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(content))) => channels.inward(&content),
                Some(Ok(Message::Text(content))) => channels.inward(content.as_bytes()),
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error.into()),
            },
            Some(reply) = replies.recv() => reply,
            _ = pings.tick() => {
                ping += 2;
                spdy::Writer::ping(ping)
            }
        };
        to_node.write_all(&frames).await?;
    }
    Ok(to_node.shutdown().await?)
}

/// Node to client, until every output and the result have ended.
async fn outward(
    mut from_node: ReadHalf<Io>,
    to_client: &mut ToClient,
    channels: &mut Channels,
    replies: mpsc::Sender<Vec<u8>>,
) -> Result<(), Failure> {
    let (mut reader, mut buffer) = (spdy::Reader::default(), vec![0; BUFFER_BYTES]);
    loop {
        let len = from_node.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        reader.push(&buffer[..len]);
        while let Some(frame) = reader.next_frame()? {
            match channels.outward(frame) {
                Outward::Message(content) => to_client.send(Message::Binary(content)).await?,
                // One that finds no room is as good as lost: pings are repeated.
                Outward::Frame(reply) => drop(replies.try_send(reply)),
                Outward::Nothing => {}
            }
        }
        if channels.is_done() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_do_not_speak() {
        let check = |subresource, protocols: &str, expected: Option<Translation>| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("k"));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).expect("a header"));
            assert_eq!(wanted(subresource, &headers), expected, "{subresource} {protocols}");
        };
        check("exec", "v5.channel.k8s.io", Some(Translation::Command));
        check("attach", "v4.channel.k8s.io, v5.channel.k8s.io", Some(Translation::Command));
        check("exec", "v4.channel.k8s.io", None);
        let inner = Translation::Tunnel("portforward.k8s.io".into());
        check("portforward", "SPDY/3.1+portforward.k8s.io", Some(inner));
        check("portforward", "v4.channel.k8s.io", None);
        check("log", "v5.channel.k8s.io", None);
        assert_eq!(wanted("exec", &HeaderMap::new()), None);
    }
}
