//! The store underneath: etcd v3 semantics over the wire messages of `proto::etcdserverpb`.
//!
//! Two implementations, [`remote`] (gRPC to an endpoint list) and [`embedded`] (the member in this process), are held
//! to one suite, [`conformance`]. Nothing here knows what a Kubernetes object is.

use async_trait::async_trait;
use futures::stream::BoxStream;
use proto::etcdserverpb as pb;

pub mod conformance;
pub mod embedded;
pub mod keys;
pub mod leases;
pub mod metered;
pub mod overrides;
pub mod remote;

/// Why the store did not answer as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No endpoint answered, or the member has no leader; the same request can succeed later.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The revision asked for has been compacted away; only a newer one can be read.
    #[error("required revision {0} has been compacted")]
    Compacted(i64),
    /// The revision asked for does not exist yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The request is larger than the store takes; retrying cannot help.
    #[error("store refused the request as too large: {0}")]
    TooLarge(String),
    /// The answer did not come in time; the write may or may not have happened.
    #[error("store timed out: {0}")]
    Timeout(String),
    /// Anything else, with the store's own words.
    #[error("store: {0}")]
    Other(String),
}

impl StoreError {
    /// Sorts a gRPC status into the kinds that callers treat differently.
    pub fn from_status(status: &tonic::Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            tonic::Code::OutOfRange if message.contains("compacted") => Self::Compacted(0),
            tonic::Code::OutOfRange => Self::FutureRevision,
            tonic::Code::Unavailable | tonic::Code::Cancelled => Self::Unavailable(message),
            tonic::Code::DeadlineExceeded => Self::Timeout(message),
            tonic::Code::InvalidArgument if message.contains("too large") => Self::TooLarge(message),
            tonic::Code::ResourceExhausted if message.contains("larger than max") => Self::TooLarge(message),
            _ => Self::Other(message),
        }
    }

    /// Whether the very same request may succeed when it is sent again.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_))
    }
}

/// An open watch. Dropping it cancels the watch.
pub struct Watch {
    /// Answers in revision order. Ends, or yields an error, when the watch cannot go on.
    pub events: BoxStream<'static, Result<pb::WatchResponse, StoreError>>,
    /// Asks for a progress answer (an event-less [`pb::WatchResponse`] whose header says how far the watch has got).
    pub progress: tokio::sync::mpsc::Sender<()>,
}

/// An etcd v3 store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError>;
    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError>;
    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError>;
    async fn watch(&self, request: pb::WatchCreateRequest) -> Result<Watch, StoreError>;
    async fn lease_grant(&self, ttl_secs: i64) -> Result<pb::LeaseGrantResponse, StoreError>;
    async fn lease_revoke(&self, id: i64) -> Result<(), StoreError>;
    /// One keep-alive; the answer's `ttl` is 0 when the lease is gone.
    async fn lease_keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError>;
    /// The store's newest revision, confirmed by a quorum: every write acknowledged before the call is at or below it.
    async fn current_revision(&self) -> Result<i64, StoreError>;
    /// Bytes on disk, for the `apiserver_storage_size_bytes` metric.
    async fn db_size_bytes(&self) -> Result<i64, StoreError>;
}
