//! A store that counts and times its calls, under the names upstream gives its etcd client's.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry as Prometheus,
};
use proto::etcdserverpb as pb;

use super::{Store, StoreError, Watch};
use crate::cache::hub::REGISTRY;
use crate::metrics::{DURATION_BUCKETS, Labelled, sweep};
use crate::registry::catalog::Snapshot;

const LABELS: [&str; 3] = ["operation", "group", "resource"];

struct Handles {
    total: IntCounter,
    errors: IntCounter,
    duration: Histogram,
}

/// The families of the store's calls.
pub struct StoreMetrics {
    total: IntCounterVec,
    errors: IntCounterVec,
    durations: HistogramVec,
    handles: Labelled<Handles>,
}

impl StoreMetrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &LABELS);
        let durations = HistogramOpts::new("etcd_request_duration_seconds", "Time the store took.");
        Ok(Self {
            total: counter("etcd_requests_total", "Calls of the store.")?,
            errors: counter("etcd_request_errors_total", "Calls of the store that failed.")?,
            durations: HistogramVec::new(durations.buckets(DURATION_BUCKETS.to_vec()), &LABELS)?,
            handles: Labelled::default(),
        })
    }

    /// Shows these families on a page.
    pub fn register(&self, page: &Prometheus) -> Result<(), prometheus::Error> {
        page.register(Box::new(self.total.clone()))?;
        page.register(Box::new(self.errors.clone()))?;
        page.register(Box::new(self.durations.clone()))
    }

    /// Drops what was counted about kinds that are no longer served.
    pub fn forget_unserved(&self, served: &Snapshot) {
        let dropped =
            sweep(&self.total, served) + sweep(&self.errors, served) + sweep(&self.durations, served);
        if dropped > 0 {
            self.handles.clear();
        }
    }

    fn note(&self, operation: &str, key: &[u8], since: Instant, failed: bool) {
        let (group, resource) = names(key);
        let labels = [operation, group, resource];
        let handles = self.handles.get(&labels, || Handles {
            total: self.total.with_label_values(&labels),
            errors: self.errors.with_label_values(&labels),
            duration: self.durations.with_label_values(&labels),
        });
        handles.total.inc();
        handles.duration.observe(since.elapsed().as_secs_f64());
        if failed {
            handles.errors.inc();
        }
    }
}

/// Group and resource of a key: `/registry/pods/…`, or `/registry/example.com/widgets/…`.
fn names(key: &[u8]) -> (&str, &str) {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let Some(rest) = text.strip_prefix(REGISTRY) else { return ("", "") };
    let mut parts = rest.split('/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        (group, resource) if group.contains('.') => (group, resource),
        ("services", part @ ("specs" | "endpoints")) => ("", if part == "specs" { "services" } else { part }),
        (resource, _) => ("", resource),
    }
}

/// Counts what another store does.
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    metrics: Arc<StoreMetrics>,
}

impl MeteredStore {
    pub fn new(inner: Arc<dyn Store>, metrics: Arc<StoreMetrics>) -> Self {
        Self { inner, metrics }
    }
}

/// What a transaction does, and to which key.
fn operation(request: &pb::TxnRequest) -> (&'static str, bytes::Bytes) {
    use pb::request_op::Request;
    let (new, key) = request.compare.first().map_or((false, bytes::Bytes::new()), |c| {
        (c.target_union == Some(pb::compare::TargetUnion::ModRevision(0)), c.key.clone())
    });
    match request.success.first().and_then(|op| op.request.as_ref()) {
        Some(Request::RequestPut(_)) if new => ("create", key),
        Some(Request::RequestDeleteRange(_)) => ("delete", key),
        _ => ("update", key),
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let operation = if request.range_end.is_empty() { "get" } else { "list" };
        let (key, started) = (request.key.clone(), Instant::now());
        let answer = self.inner.range(request).await;
        self.metrics.note(operation, &key, started, answer.is_err());
        answer
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        let ((operation, key), started) = (operation(&request), Instant::now());
        let answer = self.inner.txn(request).await;
        self.metrics.note(operation, &key, started, answer.is_err());
        answer
    }

    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        self.inner.compact(request).await
    }

    async fn watch(&self, request: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        self.inner.watch(request).await
    }

    async fn lease_grant(&self, ttl_secs: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        self.inner.lease_grant(ttl_secs).await
    }

    async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        self.inner.lease_keep_alive(id).await
    }

    async fn current_revision(&self) -> Result<i64, StoreError> {
        self.inner.current_revision().await
    }

    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        self.inner.db_size_bytes().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::keys::{delete_if, put_if};

    #[test]
    fn calls_are_named_as_upstream_names_them() {
        for (key, expected) in [
            ("/registry/pods/a/b", ("", "pods")),
            ("/registry/services/specs/a/b", ("", "services")),
            ("/registry/example.com/widgets/a", ("example.com", "widgets")),
            ("compact_rev_key", ("", "")),
        ] {
            assert_eq!(names(key.as_bytes()), expected, "{key}");
        }
        let key = bytes::Bytes::from_static(b"k");
        assert_eq!(operation(&put_if(&key, 0, key.clone(), 0)).0, "create");
        assert_eq!(operation(&put_if(&key, 7, key.clone(), 0)).0, "update");
        assert_eq!(operation(&delete_if(&key, 7)).0, "delete");
    }
}
