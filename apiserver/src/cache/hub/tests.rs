//! The hub over a store that does what the test says.

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use futures::future::join_all;
use proto::mvccpb::KeyValue;
use serde_json::json;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::cache::Filter;
use crate::cache::layout::Layout;
use crate::cache::watcher::Closed;
use crate::storage::Watch;

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for reads that may overlap to do so.
const READ_TIME: Duration = Duration::from_millis(5);

type Answers = mpsc::UnboundedSender<Result<pb::WatchResponse, StoreError>>;

#[derive(Default)]
struct Scripted {
    keys: Mutex<Vec<KeyValue>>,
    revision: AtomicI64,
    /// Ranges answered, being answered, and the most of the latter.
    reads: AtomicUsize,
    reading: AtomicUsize,
    reading_max: AtomicUsize,
    /// Ranges that fail from now on.
    failing: AtomicUsize,
    watches: Mutex<Vec<Answers>>,
}

impl Scripted {
    /// Puts an object without telling any watch.
    fn put(&self, key: &str, revision: i64) {
        let value = layout()
            .encode_stored(&json!({"metadata": {"name": "a", "labels": {"r": revision.to_string()}}}));
        let key = Bytes::from(format!("{REGISTRY}{key}"));
        let mut keys = self.keys.lock();
        keys.retain(|kv| kv.key != key);
        keys.push(KeyValue { key, value: value.into(), mod_revision: revision, ..KeyValue::default() });
        self.revision.store(revision, Ordering::SeqCst);
    }

    fn watches(&self) -> usize {
        self.watches.lock().len()
    }

    fn answer(&self, response: pb::WatchResponse) {
        let sent = self.watches.lock().last().map(|watch| watch.send(Ok(response)).is_ok());
        assert_eq!(sent, Some(true), "a watch is open");
    }
}

fn layout() -> Layout {
    Layout::new("Thing", "v1")
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Other("not part of the script".to_owned()))
}

#[async_trait]
impl Store for Scripted {
    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let now = self.reading.fetch_add(1, Ordering::SeqCst) + 1;
        self.reading_max.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(READ_TIME).await;
        self.reading.fetch_sub(1, Ordering::SeqCst);
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(StoreError::Unavailable("no leader".to_owned()));
        }
        let revision = self.revision.load(Ordering::SeqCst);
        let within = |kv: &&KeyValue| kv.key >= request.key && kv.key < request.range_end;
        let kvs = self.keys.lock().iter().filter(within).cloned().collect();
        let header = Some(pb::ResponseHeader { revision, ..Default::default() });
        Ok(pb::RangeResponse { header, kvs, ..Default::default() })
    }
    async fn watch(&self, _: pb::WatchCreateRequest) -> Result<Watch, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.lock().push(sender);
        Ok(Watch { events: UnboundedReceiverStream::new(receiver).boxed(), progress: mpsc::channel(1).0 })
    }
    async fn current_revision(&self) -> Result<i64, StoreError> {
        Ok(self.revision.load(Ordering::SeqCst))
    }
    async fn txn(&self, _: pb::TxnRequest) -> Result<pb::TxnResponse, StoreError> {
        unused()
    }
    async fn compact(&self, _: pb::CompactionRequest) -> Result<pb::CompactionResponse, StoreError> {
        unused()
    }
    async fn lease_grant(&self, _: i64) -> Result<pb::LeaseGrantResponse, StoreError> {
        unused()
    }
    async fn lease_revoke(&self, _: i64) -> Result<(), StoreError> {
        unused()
    }
    async fn lease_keep_alive(&self, _: i64) -> Result<pb::LeaseKeepAliveResponse, StoreError> {
        unused()
    }
    async fn db_size_bytes(&self) -> Result<i64, StoreError> {
        unused()
    }
}

fn spec(prefix: &str) -> CacheSpec {
    CacheSpec {
        prefix: prefix.to_owned(),
        namespaced: false,
        layout: layout(),
        fields: Vec::new(),
        indexed_slot: None,
        normalise: Arc::new(|_| None),
        on_read: None,
        keep_parsed: false,
    }
}

async fn hub(store: &Arc<Scripted>) -> Arc<Hub> {
    Hub::start(store.clone(), CancellationToken::new()).await.expect("a hub")
}

#[tokio::test]
async fn a_start_does_not_stampede_the_store() {
    let store = Arc::new(Scripted::default());
    let hub = hub(&store).await;
    let caches: Vec<_> = (0..20).map(|i| hub.add(spec(&format!("things{i}/")))).collect();
    let readers = caches.iter().flat_map(|cache| (0..10).map(move |_| cache.ready()));
    assert!(join_all(readers).await.iter().all(Result::is_ok));
    assert_eq!(
        store.reads.load(Ordering::SeqCst),
        20,
        "each resource is read once, however many wait for it"
    );
    let most = store.reading_max.load(Ordering::SeqCst);
    assert!((2..=LOADS_MAX).contains(&most), "{most} at the same time");
}

#[tokio::test]
async fn a_load_that_fails_is_begun_again_for_those_who_wait() {
    let store = Arc::new(Scripted::default());
    store.put("things/a", 10);
    store.failing.store(2, Ordering::SeqCst);
    let hub = hub(&store).await;
    let cache = hub.add(spec("things/"));
    // Nobody comes later who would begin another load.
    let readers = join_all((0..3).map(|_| cache.ready())).await;
    assert!(readers.iter().all(Result::is_ok), "{readers:?}");
    assert_eq!((cache.len(), store.reads.load(Ordering::SeqCst)), (1, 3));
}

#[tokio::test]
async fn what_a_compaction_hid_is_loaded_again_and_watchers_list_again() {
    let store = Arc::new(Scripted::default());
    store.put("things/a", 10);
    let hub = hub(&store).await;
    let cache = hub.add(spec("things/"));
    cache.wait_current().await.expect("loaded");
    let open = cache.watch(Filter::default(), Some(10)).expect("a watch");
    // The watch on the store misses a write, and learns that it can no longer be had.
    store.put("things/a", 20);
    store.answer(pb::WatchResponse { canceled: true, compact_revision: 15, ..Default::default() });
    let ended = tokio::time::timeout(PATIENCE, open.watcher.next_batch(&mut Vec::new(), 1)).await;
    assert_eq!(ended.expect("told"), Err(Closed::Restarted));
    cache.wait_current().await.expect("loaded again");
    let (page, revision) = cache.list(&Filter::default(), None, 0);
    assert_eq!((page.entries[0].revision, revision), (20, 20));
    assert!(matches!(cache.watch(Filter::default(), Some(12)), Err(CacheError::TooOld { .. })));
    let reopened = async {
        while store.watches() < 2 {
            tokio::time::sleep(READ_TIME).await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.expect("the store is watched on");
}

#[tokio::test]
async fn nothing_stale_looks_new_while_events_are_lost() {
    let store = Arc::new(Scripted::default());
    store.put("things/a", 10);
    let hub = hub(&store).await;
    let cache = hub.add(spec("things/"));
    cache.wait_current().await.expect("loaded");
    // Between the loss and the next load, what is here says how old it is, and opens no watch.
    let before = cache.changes();
    cache.restart(20);
    assert!(cache.changes() > before, "what was made of the objects is made again");
    hub.seen.store(20, Ordering::Release);
    let (page, revision) = cache.list(&Filter::default(), None, 0);
    assert_eq!((page.entries[0].revision, revision), (10, 10));
    assert!(cache.watch(Filter::default(), None).is_err());
    // A load that began before the loss does not count.
    store.put("things/a", 15);
    let waiting = tokio::time::timeout(READ_TIME * 20, cache.ready()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    store.put("things/a", 20);
    tokio::time::timeout(PATIENCE, cache.wait_for(20)).await.expect("in time").expect("loaded");
    assert_eq!(cache.get("a").map(|entry| entry.revision), Some(20));
}
