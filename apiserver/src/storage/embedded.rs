//! The store in this process: a member of the cluster's own store, asked without gRPC.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use proto::etcdserverpb as pb;
use raft_store::{Member, WatchStream, WatchUpdate};
use tokio::sync::mpsc;

use super::{Store, StoreError, Watch};

/// A handle on the member; the member outlives it.
pub struct EmbeddedStore {
    member: Arc<Member>,
}

impl EmbeddedStore {
    pub fn new(member: Arc<Member>) -> Self {
        Self { member }
    }
}

fn failed(error: raft_store::Error) -> StoreError {
    StoreError::from_status(&tonic::Status::from(error))
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// The member's update as etcd's message. Events are reference-counted bytes, so this copies no values.
fn response(update: WatchUpdate) -> pb::WatchResponse {
    match update {
        WatchUpdate::Events { watch_id, revision, events, .. } => pb::WatchResponse {
            header: header(revision),
            watch_id,
            events: events.events().iter().map(|e| e.event().clone()).collect(),
            ..Default::default()
        },
        WatchUpdate::Progress { watch_id, revision } => {
            pb::WatchResponse { header: header(revision), watch_id, ..Default::default() }
        }
        WatchUpdate::Canceled { watch_id, revision, compact_revision, reason } => pb::WatchResponse {
            header: header(revision),
            watch_id,
            canceled: true,
            compact_revision,
            cancel_reason: reason.to_string(),
            ..Default::default()
        },
    }
}

/// Reads the stream and passes on requests for progress.
struct Follow {
    stream: Arc<WatchStream>,
    asked: mpsc::Receiver<()>,
    /// The answer to the creation, which the member does not send as an update.
    created: Option<pb::WatchResponse>,
}

impl Follow {
    async fn next(&mut self) -> Option<pb::WatchResponse> {
        if let Some(created) = self.created.take() {
            return Some(created);
        }
        loop {
            tokio::select! {
                update = self.stream.next() => return update.map(response),
                Some(()) = self.asked.recv() => self.stream.request_progress(),
            }
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let revision = request.revision;
        self.member.range(request).await.map_err(failed).map_err(|e| match e {
            StoreError::Compacted(_) => StoreError::Compacted(revision),
            other => other,
        })
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        self.member.txn(request).await.map_err(failed)
    }

    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        self.member.compact(request).await.map_err(failed)
    }

    async fn watch(&self, request: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        let stream = Arc::new(self.member.watch(request).await.map_err(failed)?);
        let created = pb::WatchResponse { created: true, ..Default::default() };
        let (progress, asked) = mpsc::channel(1);
        let follow = Follow { stream, asked, created: Some(created) };
        let events = futures::stream::unfold(follow, |mut follow| async move {
            let next = follow.next().await?;
            Some((Ok(next), follow))
        });
        Ok(Watch { events: events.boxed(), progress })
    }

    async fn lease_grant(&self, ttl_secs: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        let request = pb::LeaseGrantRequest { ttl: ttl_secs, id: 0 };
        self.member.lease_grant(request).await.map_err(failed)
    }

    async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        self.member.lease_revoke(pb::LeaseRevokeRequest { id }).await.map_err(failed)?;
        Ok(())
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        self.member.lease_keep_alive(pb::LeaseKeepAliveRequest { id }).await.map_err(failed)
    }

    async fn current_revision(&self) -> Result<i64, StoreError> {
        let key = b"/registry/health".as_slice().into();
        let response = self.range(pb::RangeRequest { key, count_only: true, ..Default::default() }).await?;
        Ok(response.header.map_or(0, |h| h.revision))
    }

    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        Ok(self.member.status().await.map_err(failed)?.db_size)
    }
}
