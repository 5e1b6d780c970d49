//! The consensus service members offer each other.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use openraft::{
    alias::SnapshotOf,
    async_runtime::WatchReceiver,
    raft::{VoteRequest, VoteResponse},
};
use prost::Message;
use proto::raftpb::{
    AppendRequest, Packet, SnapshotBlock, SnapshotHeader, SnapshotOffset, raft_server::Raft as RaftApi,
};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Request, Response, Status, Streaming};

use super::{
    codec,
    heard::{Heard, HeardStream},
    network::{AppendReply, decode_append},
    position::{followed, last_log_id},
    receive::Receiver,
    snapshot::SnapshotDir,
    types::{Raft, SnapshotMeta, TypeConfig, Vote},
};
use crate::{
    blocking,
    metrics::{NETWORK, PeerTraffic, Receiving, SERVER},
};

/// Hands what peers send to the consensus core.
pub struct RaftService {
    raft: Raft,
    receiver: Receiver,
    heard: Arc<Heard>,
}

impl RaftService {
    /// Snapshots are received under `copies`.
    pub fn new(raft: Raft, copies: PathBuf, heard: Arc<Heard>) -> Self {
        Self { raft, receiver: Receiver::new(copies), heard }
    }

    /// Whether the leader this member follows is known to be dead.
    fn leader_is_gone(&self) -> bool {
        followed(&self.raft).is_some_and(|(leader, term)| self.heard.is_gone(leader, term))
    }

    /// Whether this member would vote for another, where no lease of a leader counts; changes nothing.
    fn pre_vote_without_leader(&self, request: &VoteRequest<TypeConfig>) -> VoteResponse<TypeConfig> {
        let own = last_log_id(&self.raft);
        let vote = self.raft.metrics().borrow_watched().vote;
        VoteResponse::new(vote, own, request.last_log_id >= own && request.vote >= vote)
    }
}

fn bad(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

fn unpack<T: DeserializeOwned>(request: Request<Packet>) -> Result<T, Status> {
    codec::decode(&request.into_inner().data).map_err(bad)
}

fn pack(record: &impl Serialize) -> Result<Packet, Status> {
    codec::encode(record).map(|data| Packet { data }).map_err(failed)
}

#[tonic::async_trait]
impl RaftApi for RaftService {
    async fn vote(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let mut request: VoteRequest<TypeConfig> = unpack(request)?;
        // The lease of a leader whose process is gone protects nobody.
        request.leadership_transfer |= self.leader_is_gone();
        let reply = self.raft.vote(request).await.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }

    async fn pre_vote(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let request: VoteRequest<TypeConfig> = unpack(request)?;
        let reply = if self.leader_is_gone() {
            self.pre_vote_without_leader(&request)
        } else {
            self.raft.pre_vote(request).await.map_err(failed)?
        };
        Ok(Response::new(pack(&reply)?))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // A broken or unreadable request ends the stream; the leader opens another.
        let heard = Arc::new(HeardStream::new(self.heard.clone()));
        let ended = heard.clone();
        // A stream is of one leader.
        let mut traffic: Option<Arc<PeerTraffic>> = None;
        let requests = request.into_inner().map(move |message| {
            let message = message.ok()?;
            heard.note();
            let bytes = message.encoded_len() as u64;
            match decode_append(message) {
                Ok(request) => {
                    let leader = request.vote.leader_id.voted_for;
                    traffic.get_or_insert_with(|| NETWORK.peer(leader)).received.inc_by(bytes);
                    Some(request)
                }
                Err(error) => {
                    if let Some(traffic) = &traffic {
                        traffic.receive_failures.inc();
                    }
                    tracing::warn!(%error, "bad append request");
                    None
                }
            }
        });
        let requests = requests.chain(futures::stream::once(async move {
            ended.end_in_order();
            None
        }));
        let requests = requests.take_while(|request| std::future::ready(request.is_some()));
        let requests = requests.filter_map(std::future::ready);
        let replies = self.raft.stream_append(requests).map(|result| {
            let result = result.map_err(failed)?;
            pack(&AppendReply::from(result))
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn transfer_leader(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let reply = self.raft.handle_transfer_leader(unpack(request)?).await.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }

    async fn resume(&self, request: Request<SnapshotHeader>) -> Result<Response<SnapshotOffset>, Status> {
        let offset = self.receiver.begin(request.into_inner()).map_err(failed)?;
        Ok(Response::new(SnapshotOffset { offset }))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotBlock>>) -> Result<Response<Packet>, Status> {
        let mut blocks = request.into_inner();
        let mut receiving: Option<Receiving> = None;
        while let Some(mut block) = blocks.message().await? {
            self.heard.note();
            if let Some(header) = block.header.take() {
                let vote: Vote = codec::decode(&header.vote).map_err(bad)?;
                receiving.get_or_insert_with(|| Receiving::begin(NETWORK.peer(vote.leader_id.voted_for)));
                self.receiver.begin(header).map_err(failed)?;
            }
            if blocking::in_place(|| self.receiver.write(&block)).map_err(failed)? {
                break;
            }
        }
        let whole = self.receiver.take_whole();
        let incoming = whole.ok_or_else(|| Status::unavailable("the snapshot is not complete"))?;
        if let Some(mut receiving) = receiving {
            receiving.arrived();
        }
        let vote: Vote = codec::decode(&incoming.header.vote).map_err(bad)?;
        let meta: SnapshotMeta = codec::decode(&incoming.header.meta).map_err(bad)?;
        let snapshot = SnapshotDir::new(incoming.folder);
        let snapshot = SnapshotOf::<TypeConfig, SnapshotDir> { meta, snapshot };
        SERVER.applying_snapshots.inc();
        let reply = self.raft.install_full_snapshot(vote, snapshot).await;
        SERVER.applying_snapshots.dec();
        let reply = reply.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }
}
