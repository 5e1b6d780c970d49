//! Exec and attach over WebSocket with the protocol v5: channels in messages on the client's side, SPDY streams on the
//! runtime's, which knows no v5. Which byte goes where is [`machinery::remotecommand`]'s.

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Uri};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use machinery::remotecommand::{Channels, Outward, V4, V5, Wanted, failed};
use machinery::spdy::{Reader, SpdyError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::respond::Answer;
use super::streaming::{dial_spdy, offers};
use super::tunnel::switching;

/// Frames on their way to the runtime: input waits for the runtime, not in memory.
const QUEUE_LEN: usize = 4;
/// Read from the runtime at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// True if the client offers v5.
pub fn is_v5(headers: &HeaderMap) -> bool {
    offers(headers, V5)
}

/// Opens the runtime's side, answers the client's and joins them.
pub async fn answer(target: &Uri, headers: &HeaderMap, wanted: Wanted, client: OnUpgrade) -> Answer {
    let runtime = match dial_spdy(target, V4).await {
        Ok(runtime) => runtime,
        Err(refusal) => return *refusal,
    };
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

#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("the runtime's side: {0}")]
    Runtime(#[from] std::io::Error),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
    #[error("the client's side: {0}")]
    Client(#[from] tokio_tungstenite::tungstenite::Error),
}

/// The client hears how its command ended, unless it is the client who leaves.
async fn join(client: Upgraded, runtime: Upgraded, wanted: Wanted) -> Result<(), JoinError> {
    let socket: Socket = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
    let (mut to_client, from_client) = socket.split();
    let (from_runtime, mut to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let (mut channels, opening) = Channels::open(wanted);
    let open_to_client = Channels::open(wanted).0;
    to_runtime.write_all(&opening).await?;
    to_client.send(Message::Binary(channels.greeting())).await?;
    let (frames, queue) = mpsc::channel(QUEUE_LEN);
    let ended = tokio::select! {
        done = inward(from_client, &open_to_client, frames.clone()) => return done,
        done = write_all(queue, to_runtime) => done,
        done = outward(from_runtime, &mut channels, &frames, &mut to_client) => done,
    };
    let last = ended.map_or_else(|error| failed(&error.to_string()), |()| channels.result());
    to_client.send(Message::Binary(last)).await?;
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    Ok(to_client.send(Message::Close(Some(normal))).await?)
}

/// From the client to the runtime, until the client is gone. The end of the input ends nothing else.
async fn inward(
    mut from: SplitStream<Socket>,
    channels: &Channels,
    to: mpsc::Sender<Vec<u8>>,
) -> Result<(), JoinError> {
    while let Some(message) = from.next().await {
        let frames = match message? {
            Message::Binary(content) => channels.inward(&content),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        if !frames.is_empty() && to.send(frames).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
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
    channels: &mut Channels,
    to_runtime: &mpsc::Sender<Vec<u8>>,
    to: &mut SplitSink<Socket, Message>,
) -> Result<(), JoinError> {
    let (mut reader, mut buffer) = (Reader::default(), vec![0; BUFFER_BYTES]);
    while !channels.is_done() {
        let Some(frame) = reader.next_frame()? else {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            reader.push(&buffer[..count]);
            continue;
        };
        match channels.outward(frame) {
            Outward::Message(content) => to.send(Message::Binary(content)).await?,
            // One that finds no room is as good as lost: pings are repeated.
            Outward::Frame(reply) => drop(to_runtime.try_send(reply)),
            Outward::Nothing => {}
        }
    }
    Ok(())
}
