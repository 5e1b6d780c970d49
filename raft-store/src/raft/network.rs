//! openraft's network over gRPC: one bidirectional stream replicates to each member.

use std::{
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    alias::SnapshotOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use prost::Message;
use proto::raftpb::{AppendRequest, Packet, SnapshotBlock, SnapshotHeader};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::Status;

use super::{
    codec,
    haste::{Haste, merged},
    peers::Peers,
    snapshot::SnapshotDir,
    transfers::Transfers,
    types::{Entry, LogId, MemberId, MemberNode, TypeConfig, Vote},
};
use crate::{
    blocking,
    metrics::{NETWORK, PeerTraffic, SERVER},
};

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Blocks of a snapshot on the way at once.
const SNAPSHOT_BLOCKS_IN_FLIGHT: usize = 4;
/// A snapshot may take this long before it is given up and resumed.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(3600);

/// What an append request says beside its entries.
#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
}

/// What a member answers to one append request of a stream.
#[derive(Serialize, Deserialize)]
pub enum AppendReply {
    /// Entries up to here are on its disk.
    Flushed(Option<LogId>),
    /// Its log differs here.
    Conflict(LogId),
    /// It follows another leader.
    HigherVote(Vote),
}

impl From<StreamAppendResult<TypeConfig>> for AppendReply {
    fn from(result: StreamAppendResult<TypeConfig>) -> Self {
        match result {
            Ok(flushed) => Self::Flushed(flushed),
            Err(StreamAppendError::Conflict(at)) => Self::Conflict(at),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote),
        }
    }
}

impl From<AppendReply> for StreamAppendResult<TypeConfig> {
    fn from(reply: AppendReply) -> Self {
        match reply {
            AppendReply::Flushed(flushed) => Ok(flushed),
            AppendReply::Conflict(at) => Err(StreamAppendError::Conflict(at)),
            AppendReply::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        }
    }
}

/// Encodes an append request; entries as they stand in the log.
pub fn encode_append(request: &AppendEntriesRequest<TypeConfig>) -> io::Result<AppendRequest> {
    let head = AppendHead {
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
    };
    let entries: io::Result<Vec<Bytes>> = request.entries.iter().map(codec::encode_entry).collect();
    Ok(AppendRequest { head: codec::encode(&head)?, entries: entries? })
}

/// Decodes an append request.
pub fn decode_append(request: AppendRequest) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let head: AppendHead = codec::decode(&request.head)?;
    let entries: io::Result<Vec<Entry>> = request.entries.into_iter().map(codec::decode_entry).collect();
    Ok(AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.prev_log_id,
        entries: entries?,
        leader_commit: head.leader_commit,
    })
}

/// Makes a connection for each member openraft talks to.
pub struct Network {
    peers: Peers,
    haste: Haste,
    transfers: Transfers,
}

impl Network {
    /// Over the member's shared connections; `haste` tells when followers wait for commits, and `transfers` is told of
    /// copies that are sent.
    pub fn new(peers: Peers, haste: Haste, transfers: Transfers) -> Self {
        Self { peers, haste, transfers }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: MemberId, node: &MemberNode) -> Connection {
        let (haste, transfers) = (self.haste.clone(), self.transfers.clone());
        let connection = Connection::new(self.peers.clone(), target, node.peer_urls.clone());
        Connection { haste, transfers, ..connection }
    }
}

/// The way to one member.
pub struct Connection {
    peers: Peers,
    urls: Vec<String>,
    haste: Haste,
    transfers: Transfers,
    traffic: Arc<PeerTraffic>,
}

fn unreachable(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn broken(error: &(dyn std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error.to_string()))
}

fn failed(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        // The member is not there: wait a little before trying again.
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => unreachable(status.message()),
        _ => broken(status),
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> RpcResult<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(&status)),
        Err(_) => Err(unreachable("no answer in time")),
    }
}

fn packet(record: &impl Serialize) -> RpcResult<Packet> {
    Ok(Packet { data: codec::encode(record).map_err(|error| broken(&error))? })
}

fn unpack<T: DeserializeOwned>(packet: &Packet) -> RpcResult<T> {
    codec::decode(&packet.data).map_err(|error| broken(&error))
}

impl Connection {
    /// To a member with these URLs.
    pub fn new(peers: Peers, target: MemberId, urls: Vec<String>) -> Self {
        let (haste, transfers) = (Haste::default(), Transfers::default());
        Self { peers, urls, haste, transfers, traffic: NETWORK.peer(target) }
    }

    fn client(&self) -> RpcResult<proto::raftpb::raft_client::RaftClient<super::peers::PeerChannel>> {
        self.peers.raft(&self.urls).map_err(unreachable)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotDir>,
    ) -> RpcResult<SnapshotResponse<TypeConfig>> {
        let dir = snapshot.snapshot;
        let files = dir.files().map_err(|error| broken(&error))?;
        let mut hasher = crc32fast::Hasher::new();
        for file in &files {
            hasher.update(file.name.as_bytes());
            hasher.update(&file.size.to_be_bytes());
        }
        let position = snapshot.meta.last_log_id.map_or(0, |log_id| log_id.index());
        // Another leader's copy at the same position has other files, perhaps of the same names and sizes: the two must
        // never be pieced together.
        let (term, leader) = (vote.leader_id.term, vote.leader_id.voted_for);
        let header = SnapshotHeader {
            vote: codec::encode(&vote).map_err(|error| broken(&error))?,
            meta: codec::encode(&snapshot.meta).map_err(|error| broken(&error))?,
            id: format!("{position}-{term}-{leader:x}-{:08x}", hasher.finalize()),
            files,
        };
        let mut client = self.client()?;
        let resume = within(SNAPSHOT_TIMEOUT, client.resume(header.clone())).await?;
        // Until the answer: the member opens what it has been sent before it asks for more.
        let _under_way = self.transfers.begin();
        let (blocks, stream) = tokio::sync::mpsc::channel(SNAPSHOT_BLOCKS_IN_FLIGHT);
        tokio::spawn(read_blocks(dir, header, resume.offset, blocks));
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let reply = within(SNAPSHOT_TIMEOUT, client.snapshot(stream)).await?;
        unpack(&reply)
    }
}

async fn read_blocks(
    dir: SnapshotDir,
    header: SnapshotHeader,
    from: u64,
    blocks: tokio::sync::mpsc::Sender<SnapshotBlock>,
) {
    let mut offset = from;
    let files = Arc::new(header.files.clone());
    let mut first = Some(header);
    loop {
        let (source, names) = (dir.clone(), files.clone());
        let read = blocking::run(move || source.read(&names, offset)).await;
        let data = match read.map_err(io::Error::other).flatten() {
            Ok(data) => data,
            // The receiver sees a stream that ends too early, and asks again.
            Err(error) => return tracing::warn!(%error, "cannot read a snapshot to send"),
        };
        let last = data.is_empty();
        let crc = crc32fast::hash(&data);
        let length = data.len() as u64;
        let block = SnapshotBlock { header: first.take(), offset, data, crc, last };
        if blocks.send(block).await.is_err() || last {
            return;
        }
        offset += length;
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let message = encode_append(&request).map_err(|error| broken(&error))?;
        let mut client = self.client()?;
        let limit = option.soft_ttl();
        let call = async {
            let mut replies = client.append(futures::stream::iter([message])).await?.into_inner();
            let reply = replies.message().await?.ok_or_else(|| Status::unavailable("no reply"))?;
            Ok(tonic::Response::new(reply))
        };
        let reply: AppendReply = unpack(&within(limit, call).await?)?;
        Ok(StreamAppendResult::from(reply).into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let mut input = input;
            // The pause between two attempts at a member that is away lies before the first request: asking for it
            // before connecting is what keeps the attempts apart.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(futures::stream::empty());
                return Ok(nothing);
            };
            let first = encode_append(&first).map_err(|error| broken(&error))?;
            let is_heartbeat = first.entries.is_empty();
            let traffic = self.traffic.clone();
            traffic.sent.inc_by(first.encoded_len() as u64);
            let mut client = self.client()?;
            // A request that cannot be encoded ends the stream; openraft starts another.
            let rest = merged(input, self.haste.clone())
                .map(move |request| {
                    let message = encode_append(&request).ok()?;
                    traffic.sent.inc_by(message.encoded_len() as u64);
                    Some(message)
                })
                .take_while(|message| std::future::ready(message.is_some()));
            let requests = futures::stream::iter([first]).chain(rest.filter_map(std::future::ready));
            let mut asked = is_heartbeat.then(Instant::now);
            // The limit given is for an answer within a heartbeat's time, which openraft watches by itself. A stream of
            // entries lasts, and may take as long to open as connections may.
            let limit = option.soft_ttl().max(self.peers.patience());
            let replies = within(limit, client.append(requests)).await;
            let replies = replies.inspect_err(|_| {
                self.traffic.send_failures.inc();
                if is_heartbeat {
                    SERVER.failed_heartbeats.inc();
                }
            })?;
            let traffic = self.traffic.clone();
            let results = replies.map(move |reply| {
                let reply = reply.map_err(|status| {
                    traffic.send_failures.inc();
                    failed(&status)
                })?;
                traffic.received.inc_by(reply.encoded_len() as u64);
                if let Some(asked) = asked.take() {
                    traffic.round_trip(asked.elapsed());
                }
                Ok(StreamAppendResult::from(unpack::<AppendReply>(&reply)?))
            });
            let results: BoxStream<'s, _> = Box::pin(results);
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client()?;
        unpack(&within(option.soft_ttl(), client.vote(packet(&request)?)).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client()?;
        unpack(&within(option.soft_ttl(), client.pre_vote(packet(&request)?)).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotDir>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let started = Instant::now();
        self.traffic.snapshots_sending.inc();
        let sent = tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent.map_err(StreamingError::from),
        };
        self.traffic.snapshots_sending.dec();
        match &sent {
            Ok(_) => {
                self.traffic.snapshots_sent.inc();
                self.traffic.snapshot_send_times.observe(started.elapsed().as_secs_f64());
            }
            Err(_) => self.traffic.snapshot_send_failures.inc(),
        }
        sent
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.client()?;
        unpack(&within(option.soft_ttl(), client.transfer_leader(packet(&request)?)).await?)
    }
}
