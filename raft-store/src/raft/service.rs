//! The consensus service members offer each other.

use std::{
    io::{self, Write},
    path::PathBuf,
    pin::Pin,
};

use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use parking_lot::Mutex;
use proto::raftpb::{
    AppendRequest, Packet, SnapshotBlock, SnapshotHeader, SnapshotOffset, raft_server::Raft as RaftApi,
};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Request, Response, Status, Streaming};

use super::{
    codec,
    network::{AppendReply, decode_append},
    snapshot::{SnapshotDir, is_plain_name, locate},
    types::{Raft, SnapshotMeta, TypeConfig, Vote},
};
use crate::blocking;

/// A snapshot on its way in; kept over a broken connection so that it can go on where it stopped.
struct Incoming {
    header: SnapshotHeader,
    folder: PathBuf,
    received: u64,
}

/// Hands what peers send to the consensus core.
pub struct RaftService {
    raft: Raft,
    copies: PathBuf,
    incoming: Mutex<Option<Incoming>>,
}

impl RaftService {
    /// Snapshots are received under `copies`.
    pub fn new(raft: Raft, copies: PathBuf) -> Self {
        Self { raft, copies, incoming: Mutex::new(None) }
    }

    /// Takes up the snapshot named by `header`: what is there of it stays, anything else goes.
    fn begin(&self, header: SnapshotHeader) -> io::Result<u64> {
        let mut incoming = self.incoming.lock();
        if let Some(known) = incoming.as_mut()
            && known.header.id == header.id
            && known.header.files == header.files
        {
            known.header = header;
            return Ok(known.received);
        }
        if let Some(bad) = header.files.iter().find(|file| !is_plain_name(&file.name)) {
            return Err(io::Error::other(format!("a snapshot with the file name {:?}", bad.name)));
        }
        if let Some(old) = incoming.take() {
            std::fs::remove_dir_all(&old.folder)?;
        }
        let folder = self.copies.join(format!("in-{}", header.id));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        for file in &header.files {
            std::fs::File::create(folder.join(&file.name))?;
        }
        *incoming = Some(Incoming { header, folder, received: 0 });
        Ok(0)
    }

    /// Writes one block; `true` when it was the last.
    fn write(&self, block: &SnapshotBlock) -> io::Result<bool> {
        let mut incoming = self.incoming.lock();
        let Some(incoming) = incoming.as_mut() else {
            return Err(io::Error::other("a snapshot block without a snapshot"));
        };
        if block.offset != incoming.received || crc32fast::hash(&block.data) != block.crc {
            return Err(io::Error::other(format!(
                "a damaged or misplaced snapshot block at {} after {} bytes",
                block.offset, incoming.received
            )));
        }
        if !block.data.is_empty() {
            let (name, at, left) = locate(&incoming.header.files, block.offset)
                .ok_or_else(|| io::Error::other("a snapshot block behind the end"))?;
            if block.data.len() as u64 > left {
                return Err(io::Error::other("a snapshot block that crosses files"));
            }
            let mut file = std::fs::OpenOptions::new().append(true).open(incoming.folder.join(name))?;
            if file.metadata()?.len() != at {
                return Err(io::Error::other(format!("the snapshot file {name} is not as long as it was")));
            }
            file.write_all(&block.data)?;
            if block.data.len() as u64 == left {
                file.sync_all()?;
            }
            incoming.received += block.data.len() as u64;
        }
        let size: u64 = incoming.header.files.iter().map(|file| file.size).sum();
        if block.last && incoming.received != size {
            return Err(io::Error::other(format!(
                "a snapshot of {} instead of {size} bytes",
                incoming.received
            )));
        }
        Ok(block.last)
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
        let reply = self.raft.vote(unpack(request)?).await.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }

    async fn pre_vote(&self, request: Request<Packet>) -> Result<Response<Packet>, Status> {
        let reply = self.raft.pre_vote(unpack(request)?).await.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // A broken or unreadable request ends the stream; the leader opens another.
        let requests = request.into_inner().map(|message| {
            let message = message.ok()?;
            decode_append(message).inspect_err(|error| tracing::warn!(%error, "bad append request")).ok()
        });
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
        let offset = self.begin(request.into_inner()).map_err(failed)?;
        Ok(Response::new(SnapshotOffset { offset }))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotBlock>>) -> Result<Response<Packet>, Status> {
        let mut blocks = request.into_inner();
        while let Some(mut block) = blocks.message().await? {
            if let Some(header) = block.header.take() {
                self.begin(header).map_err(failed)?;
            }
            if blocking::in_place(|| self.write(&block)).map_err(failed)? {
                break;
            }
        }
        let whole = self.incoming.lock().take_if(|incoming| {
            incoming.received == incoming.header.files.iter().map(|file| file.size).sum::<u64>()
        });
        let incoming = whole.ok_or_else(|| Status::unavailable("the snapshot is not complete"))?;
        let vote: Vote = codec::decode(&incoming.header.vote).map_err(bad)?;
        let meta: SnapshotMeta = codec::decode(&incoming.header.meta).map_err(bad)?;
        let snapshot = SnapshotDir::new(incoming.folder);
        let snapshot = SnapshotOf::<TypeConfig, SnapshotDir> { meta, snapshot };
        let reply = self.raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?;
        Ok(Response::new(pack(&reply)?))
    }
}
