//! A cluster and a store that do not answer, for the rule that what is not known is not taken for absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use machinery::status::StatusError;
use parking_lot::Mutex;
use proto::etcdserverpb as pb;

use crate::contract::{ClusterReader, ClusterWriter, Object, Selection};
use crate::storage::{Store, StoreError, Watch};

/// Holds one list of objects, which stands for those of any resource that can be read. Notes what is deleted.
#[derive(Default)]
pub struct Veiled {
    pub objects: Vec<Arc<Object>>,
    /// Until this is set nothing can be read.
    pub is_readable: AtomicBool,
    /// The resource that can never be read.
    pub hidden: &'static str,
    pub deleted: Mutex<Vec<String>>,
}

impl Veiled {
    fn known(&self, resource: &str) -> Result<Vec<Arc<Object>>, StatusError> {
        if self.is_readable.load(Ordering::SeqCst) && resource != self.hidden {
            return Ok(self.objects.clone());
        }
        Err(StatusError::service_unavailable("the store does not answer"))
    }
}

#[async_trait]
impl ClusterReader for Veiled {
    async fn get(&self, _: &str, resource: &str, _: &str, name: &str) -> Option<Arc<Object>> {
        self.known(resource).ok()?.into_iter().find(|object| object["metadata"]["name"] == name)
    }
    async fn get_current(
        &self,
        _: &str,
        resource: &str,
        _: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, StatusError> {
        Ok(self.known(resource)?.into_iter().find(|object| object["metadata"]["name"] == name))
    }
    async fn list(&self, _: &str, resource: &str, _: &str) -> Result<Vec<Arc<Object>>, StatusError> {
        self.known(resource)
    }
    async fn list_current(&self, _: &str, resource: &str, _: &str) -> Result<Vec<Arc<Object>>, StatusError> {
        self.known(resource)
    }
    async fn select(&self, _: &str, _: &str, _: &str, _: &str) -> Selection {
        Selection::new(0, Vec::new)
    }
    fn version(&self, _: &str, _: &str) -> u64 {
        0
    }
}

#[async_trait]
impl ClusterWriter for Veiled {
    async fn create(&self, _: &str, _: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        Ok(Arc::new(object))
    }
    async fn update(&self, _: &str, _: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        Ok(Arc::new(object))
    }
    async fn update_status(&self, _: &str, _: &str, object: Object) -> Result<Arc<Object>, StatusError> {
        Ok(Arc::new(object))
    }
    async fn delete(&self, _: &str, _: &str, _: &str, name: &str) -> Result<(), StatusError> {
        self.deleted.lock().push(name.to_owned());
        Ok(())
    }
}

/// Answers nothing.
pub struct Silent;

fn silent<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("no leader".to_owned()))
}

#[async_trait]
impl Store for Silent {
    async fn range(&self, _: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        silent()
    }
    async fn txn(&self, _: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        silent()
    }
    async fn watch(&self, _: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        silent()
    }
    async fn compact(&self, _: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        silent()
    }
    async fn lease_grant(&self, _: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        silent()
    }
    async fn lease_revoke(&self, _: i64) -> Result<(), StoreError> {
        silent()
    }
    async fn lease_keep_alive(&self, _: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        silent()
    }
    async fn current_revision(&self) -> Result<i64, StoreError> {
        silent()
    }
    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        silent()
    }
}
