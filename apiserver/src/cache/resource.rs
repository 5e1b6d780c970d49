//! The shell around one resource's [`State`]: lazy loading, waiting for revisions, watchers.
//!
//! The hub is the only writer. Events of one store answer are applied together, so a reader never sees half of a
//! transaction on one resource.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::counters::Counters;
use super::entry::Entry;
use super::event::{Event, EventType};
use super::extract::{Extractor, FieldDef};
use super::filter::Filter;
use super::hub::Hub;
use super::layout::Layout;
use super::state::{Page, State};
use super::watcher::{Closed, Queue, WatchItem, Watcher};
use super::watchers::Watchers;
use crate::storage::StoreError;

/// How long a read waits for the cache to reach the revision it asked for (upstream: three seconds).
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// From this many watches of one resource on, sends are bundled.
const CROWD_LEN: usize = 100;
/// How long a request waits for the first load of a resource.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Turns bytes that were not written by this server into the layout; `None` when they are beyond reading.
pub type Normalise = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// What the cache has to know about its resource.
pub struct CacheSpec {
    /// Between `/registry/` and the object's own key, with a slash at the end: `pods/`, `services/specs/`.
    pub prefix: String,
    pub namespaced: bool,
    pub layout: Layout,
    pub fields: Vec<FieldDef>,
    /// The field that lists and watches most often fix (`spec.nodeName` of pods), as a slot of `fields`.
    pub indexed_slot: Option<usize>,
    pub normalise: Normalise,
    /// Brings what the store holds in line with a schema that may have changed since; `None` inside when it is.
    pub on_read: Option<Normalise>,
    /// Parsed objects stay in memory: for small resources that permission checks and admission read all the time.
    pub keep_parsed: bool,
}

/// Why the cache cannot answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CacheError {
    /// The revision is older than the history; list again.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld { asked: i64, oldest: i64 },
    /// The revision has not been seen yet; the same request may succeed later.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge { asked: i64, current: i64 },
    /// The resource is no longer served.
    #[error("the resource is no longer served")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One change as the store reports it.
#[derive(Clone, Debug)]
pub struct RawEvent {
    /// The key after the resource's prefix.
    pub key: Bytes,
    /// `None` for a deletion.
    pub value: Option<Bytes>,
    pub revision: i64,
    pub created: bool,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// Events seen since the load began.
    Loading(Vec<RawEvent>),
    Ready,
    Stopped,
}

/// What a watcher is given first.
pub enum Initial {
    Nothing,
    /// The objects as they are; each is an ADDED event.
    Objects(Vec<Arc<Entry>>),
    /// Events since the revision asked for.
    Events(Vec<WatchItem>),
}

/// An opened watch.
pub struct WatchStart {
    pub initial: Initial,
    /// The revision of the snapshot; every later event comes through the watcher.
    pub revision: i64,
    pub watcher: Watcher,
}

/// One resource's cache.
pub struct ResourceCache {
    pub spec: CacheSpec,
    extractor: Extractor,
    hub: Weak<Hub>,
    phase: Mutex<Phase>,
    phase_changed: Notify,
    state: RwLock<State>,
    loaded_revision: AtomicI64,
    /// Events at or below this revision may not have come: a load of an earlier one is of no use.
    lost_to: AtomicI64,
    watchers: Mutex<Watchers>,
    changes: AtomicU64,
    pub counters: Counters,
    /// Open watches, readable without a lock.
    watches: AtomicUsize,
    this: Weak<Self>,
}

impl ResourceCache {
    pub fn new(spec: CacheSpec, hub: Weak<Hub>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            extractor: Extractor::new(&spec.fields),
            state: RwLock::new(State::new(spec.indexed_slot)),
            watchers: Mutex::new(Watchers::new(spec.indexed_slot)),
            spec,
            hub,
            phase: Mutex::new(Phase::Idle),
            phase_changed: Notify::new(),
            loaded_revision: AtomicI64::new(0),
            lost_to: AtomicI64::new(0),
            changes: AtomicU64::new(0),
            counters: Counters::default(),
            watches: AtomicUsize::new(0),
            this: this.clone(),
        })
    }

    /// Loads the resource when nobody has yet, and waits until it can be read.
    pub async fn ready(&self) -> Result<(), CacheError> {
        // Nearly always; waiting for changes takes a lock that all requests share.
        if self.is_ready() {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + LOAD_TIMEOUT;
        loop {
            let changed = self.phase_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.start_if_idle()? {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                let what = format!("{} was not loaded within {LOAD_TIMEOUT:?}", self.spec.prefix);
                return Err(StoreError::Timeout(what).into());
            }
        }
    }

    /// True when ready; starts the load when idle.
    fn start_if_idle(&self) -> Result<bool, CacheError> {
        let mut phase = self.phase.lock();
        match &*phase {
            Phase::Ready => Ok(true),
            Phase::Loading(_) => Ok(false),
            Phase::Stopped => Err(CacheError::Stopped),
            Phase::Idle => {
                let (Some(hub), Some(this)) = (self.hub.upgrade(), self.this.upgrade()) else {
                    return Err(CacheError::Stopped);
                };
                *phase = Phase::Loading(Vec::new());
                tokio::spawn(async move { hub.load(&this).await });
                Ok(false)
            }
        }
    }

    /// Every change at or below this revision is visible here.
    pub fn revision(&self) -> i64 {
        let hub = self.hub.upgrade().map_or(0, |h| h.revision());
        hub.max(self.loaded_revision.load(Ordering::Acquire))
    }

    /// Grows with every change; see [`crate::contract::ClusterReader::version`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the objects have been loaded.
    pub fn is_ready(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Ready)
    }

    /// Waits until every change at or below `revision` is visible.
    pub async fn wait_for(&self, revision: i64) -> Result<(), CacheError> {
        if self.revision() < revision {
            // A load can bring what the stream has not brought yet.
            self.ready().await?;
            let hub = self.hub.upgrade().ok_or(CacheError::Stopped)?;
            if self.revision() < revision && !hub.wait_for(revision, CATCH_UP_TIMEOUT).await {
                return Err(CacheError::TooLarge { asked: revision, current: self.revision() });
            }
        }
        // Last: when events were lost, the clock moves on before the objects have been loaded again.
        self.ready().await
    }

    /// Waits until every write acknowledged before this call is visible.
    pub async fn wait_current(&self) -> Result<(), CacheError> {
        self.ready().await?;
        let hub = self.hub.upgrade().ok_or(CacheError::Stopped)?;
        let revision = hub.read_index().await?;
        self.wait_for(revision).await
    }

    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().get(key).cloned()
    }

    /// A page and the revision it is of.
    pub fn list(&self, filter: &Filter, after: Option<&str>, limit: usize) -> (Page, i64) {
        // Read before the lock: everything at or below it is in the state by then.
        let floor = self.revision();
        let state = self.state.read();
        let page = state.list(filter, self.spec.namespaced, after, limit);
        self.counters.lists.add(1);
        self.counters.list_returned.add(page.entries.len());
        (page, if state.is_stale { state.revision } else { floor.max(state.revision) })
    }

    /// The revision of the newest change to any object of this resource.
    pub fn last_change(&self) -> i64 {
        self.state.read().revision
    }

    /// Opens a watch of events above `since`; with `None` the objects as they are come first.
    pub fn watch(&self, filter: Filter, since: Option<i64>) -> Result<WatchStart, CacheError> {
        let filter = Arc::new(filter);
        let queue = Arc::new(Queue::default());
        let floor = self.revision();
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        if state.is_stale {
            let why = format!("{} is being loaded again", self.spec.prefix);
            return Err(StoreError::Unavailable(why).into());
        }
        let initial = match since {
            None => Initial::Objects(state.list(&filter, self.spec.namespaced, None, 0).entries),
            Some(since) => {
                let oldest = state.window_start;
                let events = state.events_after(since).ok_or(CacheError::TooOld { asked: since, oldest })?;
                let seen = events.filter_map(|event| {
                    filter.event_type(event).map(|event_type| WatchItem { event: event.clone(), event_type })
                });
                Initial::Events(seen.collect())
            }
        };
        let id = watchers.add(filter.clone(), queue.clone(), state.revision);
        self.watches.store(watchers.len(), Ordering::Relaxed);
        let revision = floor.max(state.revision);
        Ok(WatchStart { initial, revision, watcher: Watcher::new(filter, queue, self.this.clone(), id) })
    }

    pub(super) fn remove_watcher(&self, id: usize, filter: &Filter) {
        let mut watchers = self.watchers.lock();
        watchers.remove(id, filter);
        self.watches.store(watchers.len(), Ordering::Relaxed);
    }

    /// Whether very many watches are open.
    pub fn is_crowded(&self) -> bool {
        self.watches.load(Ordering::Relaxed) >= CROWD_LEN
    }

    /// How many watches are open.
    pub fn watcher_count(&self) -> usize {
        self.watchers.lock().len()
    }

    /// Takes events from the hub, in revision order.
    pub(super) fn apply(&self, events: &[RawEvent]) {
        {
            let mut phase = self.phase.lock();
            match &mut *phase {
                Phase::Ready => {}
                Phase::Loading(buffer) => {
                    buffer.extend_from_slice(events);
                    return;
                }
                Phase::Idle | Phase::Stopped => return,
            }
        }
        self.apply_ready(events);
    }

    fn apply_ready(&self, raw: &[RawEvent]) {
        let loaded = self.loaded_revision.load(Ordering::Acquire);
        let fresh = raw.iter().filter(|e| e.revision > loaded);
        // Bytes are encoded before the lock is taken.
        let made: Vec<_> = fresh.filter_map(|e| Some((e, self.make(e)?))).collect();
        let mut events = Vec::with_capacity(made.len());
        {
            let mut state = self.state.write();
            for (raw, made) in made {
                let Ok(key) = std::str::from_utf8(&raw.key) else { continue };
                if let Some(event) = self.advance(&mut state, key, raw.revision, made) {
                    state.remember(event.clone());
                    events.push(event);
                }
            }
            self.changes.store(state.changes, Ordering::Release);
        }
        self.counters.events.add(events.len());
        self.watchers.lock().deliver(&events, &self.counters);
    }

    fn advance(&self, state: &mut State, key: &str, revision: i64, made: Made) -> Option<Arc<Event>> {
        match made {
            Made::Put { line, json, extracted } => {
                let entry = Arc::new(self.entry(state, key, revision, json, extracted));
                let previous = state.replace(key, Some(entry.clone()));
                let event_type = if previous.is_some() { EventType::Modified } else { EventType::Added };
                let line = if line_has_type(&line, event_type) {
                    line
                } else {
                    super::layout::event_line(event_type.as_str(), &entry.json)
                };
                Some(Arc::new(Event::new(event_type, entry, previous, line)))
            }
            Made::Delete => {
                let previous = state.replace(key, None)?;
                let last = self.last_state(&previous, revision);
                let line = super::layout::event_line(EventType::Deleted.as_str(), &last.json);
                Some(Arc::new(Event::new(EventType::Deleted, Arc::new(last), Some(previous), line)))
            }
        }
    }

    /// The entry of `previous` as it is shown in the event that ends it.
    pub fn last_state(&self, previous: &Entry, revision: i64) -> Entry {
        let stored = self.spec.layout.unserve(&previous.json);
        let json = self.spec.layout.served(&stored, revision);
        Entry::new(previous.key.clone(), revision, json, previous.labels.clone(), previous.fields.clone())
    }

    fn make(&self, raw: &RawEvent) -> Option<Made> {
        let Some(value) = &raw.value else { return Some(Made::Delete) };
        let stored = self.normalised(value)?;
        let event_type = if raw.created { EventType::Added } else { EventType::Modified };
        let (line, json) = self.spec.layout.served_event(event_type.as_str(), &stored, raw.revision);
        Some(Made::Put { extracted: self.extractor.extract(&json), line, json })
    }

    fn normalised<'a>(&self, stored: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let fitting = self.fitting(stored)?;
        let changed = self.spec.on_read.as_ref().and_then(|read| read(&fitting));
        Some(changed.map_or(fitting, Cow::Owned))
    }

    fn fitting<'a>(&self, stored: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.spec.layout.fits(stored) {
            return Some(stored.into());
        }
        let made = (self.spec.normalise)(stored);
        if made.is_none() {
            tracing::error!(
                prefix = self.spec.prefix,
                "an object in the store cannot be decoded and is not served"
            );
        }
        made.map(Into::into)
    }

    /// An entry for bytes this server has just written: what the answer needs of it, and nothing for selectors.
    pub fn written(&self, key: &str, stored: &[u8], revision: i64) -> Entry {
        Entry::new(
            key.into(),
            revision,
            self.spec.layout.served(stored, revision),
            Box::default(),
            Box::default(),
        )
    }

    /// An entry for bytes read from the store outside the event stream.
    pub fn entry_of(&self, key: &str, stored: &[u8], revision: i64) -> Option<Entry> {
        let stored = self.normalised(stored)?;
        let json = self.spec.layout.served(&stored, revision);
        let extracted = self.extractor.extract(&json);
        Some(self.entry(&self.state.read(), key, revision, json, extracted))
    }

    fn entry(
        &self,
        state: &State,
        key: &str,
        revision: i64,
        json: Bytes,
        found: super::extract::Extracted,
    ) -> Entry {
        let labels = found.labels.iter().map(|(k, v)| state.intern_label(k, v)).collect();
        let fields = found.fields.iter().map(|f| Arc::from(f.as_str())).collect();
        Entry::new(key.into(), revision, json, labels, fields).keeping_parsed(self.spec.keep_parsed)
    }

    /// Installs a load made at `revision` and the events that came meanwhile.
    pub(super) fn loaded(&self, entries: Vec<Arc<Entry>>, revision: i64) {
        let mut phase = self.phase.lock();
        let Phase::Loading(buffer) = &mut *phase else { return };
        if revision < self.lost_to.load(Ordering::Acquire) {
            // The load of a time before events were lost: whoever waits starts another one.
            *phase = Phase::Idle;
            drop(phase);
            self.phase_changed.notify_waiters();
            return;
        }
        let buffer = std::mem::take(buffer);
        {
            let mut state = self.state.write();
            state.reset(entries, revision);
            self.changes.store(state.changes, Ordering::Release);
        }
        self.counters.loads.add(1);
        self.loaded_revision.store(revision, Ordering::Release);
        self.apply_ready(&buffer);
        *phase = Phase::Ready;
        drop(phase);
        self.phase_changed.notify_waiters();
    }

    /// A failed load: whoever waits for it, or else the next reader, starts another one.
    pub(super) fn load_failed(&self) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Loading(_)) {
            *phase = Phase::Idle;
            drop(phase);
            self.phase_changed.notify_waiters();
        }
    }

    /// Lets go of history that is older than the last call; see [`State::age`].
    pub(super) fn age(&self) {
        self.state.write().age();
    }

    /// The hub has lost events at or below `revision`: the objects are loaded again, and watchers must list again.
    pub(super) fn restart(&self, revision: i64) {
        let mut phase = self.phase.lock();
        self.lost_to.store(revision, Ordering::Release);
        if !matches!(*phase, Phase::Stopped) {
            *phase = Phase::Idle;
        }
        {
            // Before the watchers are closed: whoever opens a watch later finds it out. It is a change, too: what was
            // made of the objects (who may do what) must be made again from a load, which its next reader begins.
            let mut state = self.state.write();
            state.is_stale = true;
            state.changes += 1;
            self.changes.store(state.changes, Ordering::Release);
        }
        self.watchers.lock().close_all(Closed::Restarted);
    }

    /// The resource is no longer served: watchers end, readers fail.
    pub fn stop(&self) {
        *self.phase.lock() = Phase::Stopped;
        self.watchers.lock().close_all(Closed::Restarted);
        self.phase_changed.notify_waiters();
    }
}

enum Made {
    Put { line: Bytes, json: Bytes, extracted: super::extract::Extracted },
    Delete,
}

/// The store's idea of "created" and the cache's can differ when an object was deleted and made again in one answer.
fn line_has_type(line: &[u8], event_type: EventType) -> bool {
    line.get(9..).is_some_and(|l| l.starts_with(event_type.as_str().as_bytes()))
}
