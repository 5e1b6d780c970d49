//! Exec and attach over WebSocket with the protocol v5: channels in messages on the client's side, SPDY streams on the
//! runtime's, which knows no v5. What v5 adds is the end of the input: `cat file | kubectl exec -i` ends by it.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use machinery::spdy::{Frame, Reader, SpdyError, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::respond::{Answer, text};
use super::streaming::dial;
use super::tunnel::switching;

/// The client's protocol.
const V5: &str = "v5.channel.k8s.io";
/// The runtime's.
const INNER: &str = "v4.channel.k8s.io";
/// A message of this channel ends the channel it names.
const CLOSE: u8 = 255;
/// Frames on their way to the runtime: input waits for the runtime, not in memory.
const QUEUE_LEN: usize = 4;
/// Read from the runtime at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// Channels by number, with the name their SPDY stream goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
            Channel::Resize => "resize",
        }
    }
}

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Error output; none of its own with a terminal.
    pub stderr: bool,
    /// A terminal, whose size may change.
    pub tty: bool,
}

impl Wanted {
    fn channels(self) -> impl Iterator<Item = Channel> {
        let all = [
            (true, Channel::Error),
            (self.stdin, Channel::Stdin),
            (self.stdout, Channel::Stdout),
            (self.stderr && !self.tty, Channel::Stderr),
            (self.tty, Channel::Resize),
        ];
        all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, channel)| channel)
    }
}

/// True if the client offers v5.
pub fn is_v5(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    protocols.flat_map(|v| v.split(',')).any(|p| p.trim() == V5)
}

/// Opens the runtime's side, answers the client's and joins them.
pub async fn answer(target: &Uri, headers: &HeaderMap, wanted: Wanted, client: OnUpgrade) -> Answer {
    let mut spdy = HeaderMap::new();
    spdy.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    spdy.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    spdy.insert("x-stream-protocol-version", HeaderValue::from_static(INNER));
    let mut runtime = match dial(target, Method::POST, spdy).await {
        Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => answer,
        Ok(answer) => {
            return text(StatusCode::BAD_GATEWAY, format!("the runtime answered {}\n", answer.status()));
        }
        Err(error) => return text(StatusCode::BAD_GATEWAY, format!("{error}\n")),
    };
    let runtime = hyper::upgrade::on(&mut runtime);
    let answer = match switching(headers, V5) {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    tokio::spawn(async move {
        if let (Ok(client), Ok(runtime)) = (client.await, runtime.await)
            && let Err(error) = join(client, runtime, wanted).await
        {
            tracing::debug!(%error, "a stream ended early");
        }
    });
    answer
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;
/// SPDY streams by channel.
type Streams = BTreeMap<Channel, u32>;

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("the runtime's side: {0}")]
    Runtime(#[from] std::io::Error),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
    #[error("the client's side: {0}")]
    Client(#[from] tokio_tungstenite::tungstenite::Error),
}

async fn join(client: Upgraded, runtime: Upgraded, wanted: Wanted) -> Result<(), JoinError> {
    let socket: Socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
    let (mut to_client, from_client) = socket.split();
    let (from_runtime, mut to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let mut writer = Writer::default();
    let mut streams = Streams::new();
    // Streams of the side that opens them have odd numbers.
    for (channel, stream) in wanted.channels().zip((1..).step_by(2)) {
        to_runtime.write_all(&writer.syn_stream(stream, &[("streamtype", channel.name())], false)).await?;
        streams.insert(channel, stream);
    }
    // An empty message says that the streams are there, as upstream's servers do.
    let first = if wanted.stdout { Channel::Stdout } else { Channel::Error };
    to_client.send(Message::Binary(Bytes::from(vec![first as u8]))).await?;
    let (frames, queue) = mpsc::channel(QUEUE_LEN);
    tokio::select! {
        done = inward(from_client, &streams, frames.clone()) => done,
        done = write_all(queue, to_runtime) => done,
        done = outward(from_runtime, &streams, &frames, &mut to_client) => {
            let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            to_client.send(Message::Close(Some(normal))).await?;
            done
        }
    }
}

/// From the client to the runtime, until the client is gone. The end of the input ends nothing else.
async fn inward(
    mut from: SplitStream<Socket>,
    streams: &Streams,
    to: mpsc::Sender<Vec<u8>>,
) -> Result<(), JoinError> {
    while let Some(message) = from.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        if let Some(frames) = frames_of(&bytes, streams)
            && to.send(frames).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// What a client's message becomes. Messages of channels it does not write to are dropped.
fn frames_of(message: &[u8], streams: &Streams) -> Option<Vec<u8>> {
    let writable = |number: u8| {
        let channel = [Channel::Stdin, Channel::Resize].into_iter().find(|c| *c as u8 == number)?;
        streams.get(&channel).copied()
    };
    match message {
        [CLOSE, ended, ..] => Some(Writer::data(writable(*ended)?, b"", true)),
        [number, payload @ ..] if !payload.is_empty() => {
            Some(Writer::data(writable(*number)?, payload, false))
        }
        _ => None,
    }
}

async fn write_all(
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
) -> Result<(), JoinError> {
    while let Some(frame) = queue.recv().await {
        to.write_all(&frame).await?;
    }
    Ok(())
}

/// From the runtime to the client, until every stream that the runtime writes has ended.
async fn outward(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    streams: &Streams,
    to_runtime: &mpsc::Sender<Vec<u8>>,
    to: &mut SplitSink<Socket, Message>,
) -> Result<(), JoinError> {
    let mut open: BTreeMap<u32, Channel> = streams
        .iter()
        .filter(|(channel, _)| !matches!(channel, Channel::Stdin | Channel::Resize))
        .map(|(channel, stream)| (*stream, *channel))
        .collect();
    let (mut reader, mut buffer) = (Reader::default(), vec![0; BUFFER_BYTES]);
    while !open.is_empty() {
        let Some(frame) = reader.next_frame()? else {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            reader.push(&buffer[..count]);
            continue;
        };
        match frame {
            Frame::Data { stream, fin, content } => {
                if let Some(channel) = open.get(&stream).filter(|_| !content.is_empty()) {
                    let message = [&[*channel as u8][..], &content].concat();
                    to.send(Message::Binary(message.into())).await?;
                }
                if fin {
                    open.remove(&stream);
                }
            }
            Frame::SynReply { stream, fin: true } | Frame::Reset { stream, .. } => {
                open.remove(&stream);
            }
            Frame::Ping { id } => {
                let _ = to_runtime.send(Writer::ping(id)).await;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &[u8], expected: Option<Vec<u8>>) {
        let streams = Streams::from([(Channel::Stdin, 3), (Channel::Error, 1)]);
        assert_eq!(frames_of(message, &streams), expected, "{message:?}");
    }

    #[test]
    fn messages_become_frames_of_their_stream() {
        check(b"\x00hi", Some(Writer::data(3, b"hi", false)));
        check(b"\xff\x00", Some(Writer::data(3, b"", true)));
        // Not asked for, not the client's to write, not there.
        for ignored in [&b"\x04{}"[..], b"\x03x", b"\xff\x03", b"\xff", b"\x00", b""] {
            check(ignored, None);
        }
    }

    #[test]
    fn a_terminal_has_no_error_output_of_its_own() {
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
        let names: Vec<_> = all.channels().map(Channel::name).collect();
        assert_eq!(names, ["error", "stdin", "stdout", "resize"]);
        assert_eq!(Wanted::default().channels().count(), 1);
    }
}
