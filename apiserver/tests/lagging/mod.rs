//! A store whose watches are late, as on a busy machine or on a member behind its leader; of reads only those that one
//! asks to be. Answers to writes can be lost on the way.

use std::sync::Arc;
use std::time::Duration;

use apiserver::storage::{Store, StoreError, Watch};
use async_trait::async_trait;
use futures::StreamExt as _;
use proto::etcdserverpb as pb;

/// Longer than upstream's servers wait for a namespace they do not know (50 ms).
const LAG: Duration = Duration::from_millis(80);

/// How long a slow read takes: time for several requests.
const SLOW_READ: Duration = Duration::from_millis(500);

pub struct Lagging {
    store: Arc<dyn Store>,
    /// Reads of keys that begin so are slow.
    slow: Option<&'static str>,
    /// Answers to writes of keys that begin so are lost.
    mute: Option<&'static str>,
}

impl Lagging {
    pub fn watches(store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Self { store, slow: None, mute: None })
    }

    pub fn watches_and_reads_of(prefix: &'static str, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Self { store, slow: Some(prefix), mute: None })
    }

    pub fn watches_and_answers_lost_of(prefix: &'static str, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Self { store, slow: None, mute: Some(prefix) })
    }
}

#[async_trait]
impl Store for Lagging {
    async fn watch(&self, request: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        let Watch { events, progress } = self.store.watch(request).await?;
        let late = events.then(|event| async {
            tokio::time::sleep(LAG).await;
            event
        });
        Ok(Watch { events: late.boxed(), progress })
    }
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        if self.slow.is_some_and(|prefix| request.key.starts_with(prefix.as_bytes())) {
            tokio::time::sleep(SLOW_READ).await;
        }
        self.store.range(request).await
    }
    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        let is_lost = |prefix: &str| request.compare.iter().any(|c| c.key.starts_with(prefix.as_bytes()));
        if self.mute.is_some_and(is_lost) {
            self.store.txn(request).await?;
            return Err(StoreError::Timeout("the answer is lost".to_owned()));
        }
        self.store.txn(request).await
    }
    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        self.store.compact(request).await
    }
    async fn lease_grant(&self, ttl_secs: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        self.store.lease_grant(ttl_secs).await
    }
    async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        self.store.lease_revoke(id).await
    }
    async fn lease_keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        self.store.lease_keep_alive(id).await
    }
    async fn current_revision(&self) -> Result<i64, StoreError> {
        self.store.current_revision().await
    }
    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        self.store.db_size_bytes().await
    }
}
