//! The KV service.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse, kv_server::Kv,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::identity::caller;
use crate::member::{Caller, Member};

/// Keys in one message of a range stream.
const STREAM_CHUNK_KEYS: i64 = 1_000;
/// Messages of a range stream that may wait for a slow client.
const STREAM_CHUNKS_WAITING: usize = 2;

/// Serves KV from a member.
pub struct KvService(pub Arc<Member>);

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.range_as(&caller, request.into_inner()).await?))
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        if request.sort_target != 0 || request.sort_order > 1 {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if filters.iter().any(|filter| *filter != 0) {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        let (chunks, stream) = tokio::sync::mpsc::channel(STREAM_CHUNKS_WAITING);
        let member = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = stream_range(&member, &caller, request, &chunks).await {
                // The client may have gone; then nobody needs to hear.
                let _ = chunks.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.put_as(&caller, request.into_inner()).await?))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.delete_range_as(&caller, request.into_inner()).await?))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.txn_as(&caller, request.into_inner()).await?))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.compact_as(&caller, request.into_inner()).await?))
    }
}

/// Reads a range piece by piece, all at the revision of the first piece. Header, count and `more` come last.
async fn stream_range(
    member: &Member,
    caller: &Caller,
    mut request: RangeRequest,
    chunks: &tokio::sync::mpsc::Sender<Result<RangeStreamResponse, Status>>,
) -> Result<(), Status> {
    let mut left = if request.limit > 0 { request.limit } else { i64::MAX };
    let mut total = None;
    loop {
        request.limit = left.min(STREAM_CHUNK_KEYS);
        let mut piece = member.range_as(caller, request.clone()).await?;
        let total = *total.get_or_insert(piece.count);
        left -= piece.kvs.len() as i64;
        let last_key = piece.kvs.last().map(|kv| kv.key.clone());
        let done = !piece.more || left <= 0 || last_key.is_none();
        if request.revision == 0 {
            request.revision = piece.header.as_ref().map_or(0, |header| header.revision);
        }
        // The pieces after the first are read at a revision that is known to be applied here.
        request.serializable = true;
        if done {
            piece.count = total;
        } else {
            (piece.header, piece.more, piece.count) = (None, false, 0);
        }
        if chunks.send(Ok(RangeStreamResponse { range_response: Some(piece) })).await.is_err() || done {
            return Ok(());
        }
        if let Some(key) = last_key {
            request.key = [key.as_ref(), &[0]].concat().into();
        }
    }
}
