//! The one watch on the store, and the loads, that feed every resource's cache.
//!
//! One stream of the whole key space gives all caches one clock: whoever has seen revision N of the stream has seen
//! every change at or below N of every resource. Loads are lazy and few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use proto::etcdserverpb as pb;
use proto::mvccpb::event::EventType as StoreEventType;
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::resource::{CacheError, CacheSpec, RawEvent, ResourceCache};
use crate::storage::keys::prefix_end;
use crate::storage::{Store, StoreError};

/// Everything of Kubernetes lies under this prefix, as upstream lays it out.
pub const REGISTRY: &str = "/registry/";
/// Resources loaded at the same time: enough to hide round trips, few enough not to flood the store at start-up.
const LOADS_MAX: usize = 3;
/// Objects read in one request while loading.
const LOAD_PAGE_LEN: i64 = 500;
/// How long history is kept at least: upstream's clients resume within 75 s of an event.
const HISTORY_AGE: Duration = Duration::from_secs(75);
/// Pause before the stream is opened again.
const REOPEN_DELAY: Duration = Duration::from_millis(100);
/// How long a reader waits for events before it asks the store how far the stream has got.
const PROGRESS_DELAY: Duration = Duration::from_millis(20);

type Waiting = Vec<tokio::sync::oneshot::Sender<Result<i64, StoreError>>>;

#[derive(Default)]
struct ReadIndex {
    running: bool,
    waiting: Waiting,
}

/// Owner of the stream and of the set of caches.
pub struct Hub {
    pub store: Arc<dyn Store>,
    caches: RwLock<FxHashMap<Box<str>, Arc<ResourceCache>>>,
    seen: AtomicI64,
    seen_changed: watch::Sender<i64>,
    progress: Mutex<Option<mpsc::Sender<()>>>,
    read_index: Mutex<ReadIndex>,
    loads: Semaphore,
}

impl Hub {
    /// Opens the stream at the store's newest revision and keeps it open until `shutdown`.
    pub async fn start(store: Arc<dyn Store>, shutdown: CancellationToken) -> Result<Arc<Self>, StoreError> {
        let revision = store.current_revision().await?;
        let hub = Arc::new(Self {
            store,
            caches: RwLock::default(),
            seen: AtomicI64::new(revision),
            seen_changed: watch::Sender::new(revision),
            progress: Mutex::new(None),
            read_index: Mutex::default(),
            loads: Semaphore::new(LOADS_MAX),
        });
        let run = hub.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = run.follow() => {}
                () = run.age() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(hub)
    }

    /// Every change at or below this revision has been applied to every loaded cache.
    pub fn revision(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The cache of `spec.prefix`, new and not yet loaded, in place of one that may have been there.
    pub fn add(self: &Arc<Self>, spec: CacheSpec) -> Arc<ResourceCache> {
        let prefix: Box<str> = spec.prefix.trim_end_matches('/').into();
        let cache = ResourceCache::new(spec, Arc::downgrade(self));
        if let Some(old) = self.caches.write().insert(prefix, cache.clone()) {
            old.stop();
        }
        cache
    }

    /// Stops serving a resource.
    pub fn remove(&self, cache: &ResourceCache) {
        self.caches.write().remove(cache.spec.prefix.trim_end_matches('/'));
        cache.stop();
    }

    /// All caches, for metrics.
    pub fn caches(&self) -> Vec<Arc<ResourceCache>> {
        self.caches.read().values().cloned().collect()
    }

    /// Waits until the stream has passed `revision`; false when it has not within `timeout`.
    pub async fn wait_for(&self, revision: i64, timeout: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut seen = self.seen_changed.subscribe();
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let step = (tokio::time::Instant::now() + PROGRESS_DELAY).min(deadline);
            match tokio::time::timeout_at(step, seen.wait_for(|s| *s >= revision)).await {
                Ok(result) => return result.is_ok(),
                Err(_) if tokio::time::Instant::now() >= deadline => return false,
                // Revisions can pass without an event on any key, for example at a store's compaction.
                Err(_) => self.request_progress(),
            }
        }
    }

    fn request_progress(&self) {
        if let Some(sender) = &*self.progress.lock() {
            let _ = sender.try_send(());
        }
    }

    /// A revision at or above every write acknowledged before this call. Concurrent calls share store requests; a
    /// call never uses the answer to a request that was sent before it.
    pub async fn read_index(self: &Arc<Self>) -> Result<i64, StoreError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let start = {
            let mut index = self.read_index.lock();
            index.waiting.push(sender);
            !std::mem::replace(&mut index.running, true)
        };
        if start {
            let hub = self.clone();
            tokio::spawn(async move { hub.answer_read_indexes().await });
        }
        receiver.await.unwrap_or_else(|_| Err(StoreError::Unavailable("shutting down".into())))
    }

    async fn answer_read_indexes(&self) {
        loop {
            let waiting = {
                let mut index = self.read_index.lock();
                if index.waiting.is_empty() {
                    index.running = false;
                    return;
                }
                std::mem::take(&mut index.waiting)
            };
            let answer = self.store.current_revision().await;
            for sender in waiting {
                let _ = sender.send(answer.clone());
            }
        }
    }

    /// What a burst of writes left in the history goes again.
    async fn age(&self) {
        loop {
            tokio::time::sleep(HISTORY_AGE).await;
            self.caches().iter().for_each(|cache| cache.age());
        }
    }

    async fn follow(&self) {
        loop {
            match self.follow_once().await {
                Ok(()) => tracing::debug!("the store ended the watch; opening it again"),
                Err(StoreError::Compacted(_)) => self.restart_all().await,
                Err(error) => tracing::warn!(%error, "the watch on the store failed; opening it again"),
            }
            *self.progress.lock() = None;
            tokio::time::sleep(REOPEN_DELAY).await;
        }
    }

    async fn follow_once(&self) -> Result<(), StoreError> {
        let request = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: self.revision() + 1,
            progress_notify: true,
            ..Default::default()
        };
        let mut watch = self.store.watch(request).await?;
        *self.progress.lock() = Some(watch.progress.clone());
        while let Some(response) = watch.events.next().await {
            let response = response?;
            if response.canceled {
                if response.compact_revision > 0 {
                    return Err(StoreError::Compacted(response.compact_revision));
                }
                return Err(StoreError::Other(response.cancel_reason));
            }
            self.take(&response);
        }
        Ok(())
    }

    /// Applies one answer of the store to the caches, then moves the clock.
    fn take(&self, response: &pb::WatchResponse) {
        let seen = match response.events.last().and_then(|e| e.kv.as_ref()) {
            Some(kv) => {
                self.dispatch(&response.events);
                kv.mod_revision
            }
            // The answer to the creation says nothing about events still on their way.
            None if response.created => return,
            None => response.header.as_ref().map_or(0, |h| h.revision),
        };
        if seen > self.revision() {
            self.seen.store(seen, Ordering::Release);
            self.seen_changed.send_replace(seen);
        }
    }

    fn dispatch(&self, events: &[proto::mvccpb::Event]) {
        let caches = self.caches.read();
        let mut run: Vec<RawEvent> = Vec::new();
        let mut run_cache: Option<&Arc<ResourceCache>> = None;
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let Some((cache, key)) = find(&caches, &kv.key) else { continue };
            if let Some(previous) = run_cache
                && !Arc::ptr_eq(previous, cache)
            {
                previous.apply(&std::mem::take(&mut run));
            }
            run_cache = Some(cache);
            run.push(RawEvent {
                key,
                value: (event.r#type == StoreEventType::Put as i32).then(|| kv.value.clone()),
                revision: kv.mod_revision,
                created: kv.create_revision == kv.mod_revision,
            });
        }
        if let Some(cache) = run_cache {
            cache.apply(&run);
        }
    }

    /// Reads a whole resource and hands it to its cache.
    pub(super) async fn load(&self, cache: &ResourceCache) {
        let Ok(_permit) = self.loads.acquire().await else { return };
        loop {
            match self.read_all(cache).await {
                Ok((entries, revision)) => {
                    cache.loaded(entries, revision);
                    return;
                }
                Err(StoreError::Compacted(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, prefix = cache.spec.prefix, "loading a resource failed");
                    tokio::time::sleep(REOPEN_DELAY).await;
                    cache.load_failed();
                    return;
                }
            }
        }
    }

    async fn read_all(&self, cache: &ResourceCache) -> Result<(Vec<Arc<Entry>>, i64), StoreError> {
        let prefix = format!("{REGISTRY}{}", cache.spec.prefix);
        let mut request = pb::RangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(prefix.as_bytes()).into(),
            limit: LOAD_PAGE_LEN,
            ..Default::default()
        };
        let mut entries = Vec::new();
        loop {
            let page = self.store.range(request.clone()).await?;
            if request.revision == 0 {
                request.revision = page.header.as_ref().map_or(0, |h| h.revision);
            }
            for kv in &page.kvs {
                let Ok(key) = std::str::from_utf8(&kv.key[prefix.len()..]) else { continue };
                entries.extend(cache.entry_of(key, &kv.value, kv.mod_revision).map(Arc::new));
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            request.key = [&last.key[..], b"\0"].concat().into();
        }
        Ok((entries, request.revision))
    }

    /// Events were lost to compaction: every cache starts again from a load.
    async fn restart_all(&self) {
        tracing::warn!("the store compacted revisions that were not yet seen; loading every resource again");
        let Ok(revision) = self.store.current_revision().await else { return };
        // The caches first: none of them may seem to be as new as the clock will say.
        for cache in self.caches() {
            cache.restart(revision);
        }
        self.seen.store(revision, Ordering::Release);
        self.seen_changed.send_replace(revision);
    }

    /// Reads one page of history at an exact revision, straight from the store.
    pub async fn range_at(
        &self,
        cache: &ResourceCache,
        start: &str,
        end: &str,
        revision: i64,
        limit: i64,
    ) -> Result<(Vec<Entry>, bool, i64), CacheError> {
        let prefix = format!("{REGISTRY}{}", cache.spec.prefix);
        let request = pb::RangeRequest {
            key: format!("{prefix}{start}").into(),
            range_end: prefix_end(format!("{prefix}{end}").as_bytes()).into(),
            revision,
            limit,
            ..Default::default()
        };
        let page = self.store.range(request).await?;
        let decode = |kv: &proto::mvccpb::KeyValue| {
            let key = std::str::from_utf8(&kv.key[prefix.len()..]).ok()?;
            cache.entry_of(key, &kv.value, kv.mod_revision)
        };
        let read =
            page.header.as_ref().map_or(revision, |h| if revision > 0 { revision } else { h.revision });
        Ok((page.kvs.iter().filter_map(decode).collect(), page.more, read))
    }
}

/// The cache that owns a store key, and the object's own part of the key.
fn find<'a>(
    caches: &'a FxHashMap<Box<str>, Arc<ResourceCache>>,
    key: &Bytes,
) -> Option<(&'a Arc<ResourceCache>, Bytes)> {
    let rest = key.strip_prefix(REGISTRY.as_bytes())?;
    let text = std::str::from_utf8(rest).ok()?;
    let mut slashes = text.match_indices('/').map(|(i, _)| i);
    // A prefix has one segment (`pods`) or two (`services/specs`, `example.com/widgets`).
    for end in slashes.by_ref().take(2) {
        if let Some(cache) = caches.get(&text[..end]) {
            return Some((cache, key.slice(REGISTRY.len() + end + 1..)));
        }
    }
    None
}

#[cfg(test)]
mod tests;
