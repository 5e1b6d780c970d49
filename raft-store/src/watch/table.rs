//! The watchers of a member and what each has received: a pure state machine over sinks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType};
use rustc_hash::FxHashMap;

use super::{
    event::{EventBatch, WatchEvent, WatchUpdate},
    matcher::{GroupId, Matcher, WatcherId},
    sink::Sink,
};
use crate::mvcc::keys::KeyRange;

/// Handle of a watch stream inside the hub.
pub type StreamId = u64;

/// One watch.
pub struct Watcher {
    stream: StreamId,
    watch_id: i64,
    sink: Arc<Sink>,
    /// What it watches.
    pub range: KeyRange,
    /// The first revision it has not been given.
    pub next_revision: i64,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    progress_notify: bool,
    /// Nothing was sent since the last progress tick.
    idle: bool,
}

impl Watcher {
    fn wants(&self, event: &WatchEvent) -> bool {
        let filtered = if event.is_delete() { self.no_delete } else { self.no_put };
        !filtered && event.revision() >= self.next_revision
    }

    fn wants_everything_from(&self, revision: i64) -> bool {
        !self.no_put && !self.no_delete && self.next_revision <= revision
    }
}

struct Stream {
    sink: Arc<Sink>,
    watches: BTreeMap<i64, WatcherId>,
    next_watch_id: i64,
}

impl Stream {
    fn free_watch_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_watch_id) {
            self.next_watch_id += 1;
        }
        self.next_watch_id += 1;
        self.next_watch_id - 1
    }
}

/// Why a watch could not be made; the text is etcd's.
pub const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// The client chose an id its stream already uses.
pub const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// All watchers. `revision` is the last revision handed to those that keep up.
#[derive(Default)]
pub struct WatchTable {
    watchers: HashMap<WatcherId, Watcher>,
    synced: Matcher,
    behind: BTreeSet<WatcherId>,
    streams: HashMap<StreamId, Stream>,
    /// Streams that wait for a progress mark.
    progress_wanted: BTreeSet<StreamId>,
    revision: i64,
    next_id: u64,
}

impl WatchTable {
    /// Starts at the revision the store has now.
    pub fn new(revision: i64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Streams, watches, and watches that are behind.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.streams.len(), self.watchers.len(), self.behind.len())
    }

    /// Adds a stream.
    pub fn open(&mut self, sink: Arc<Sink>) -> StreamId {
        self.next_id += 1;
        let stream = Stream { sink, watches: BTreeMap::new(), next_watch_id: 0 };
        self.streams.insert(self.next_id, stream);
        self.next_id
    }

    /// Nothing comes to any stream any more.
    pub fn close_sinks(&self) {
        self.streams.values().for_each(|stream| stream.sink.close());
    }

    /// Removes a stream with all its watches.
    pub fn close(&mut self, stream: StreamId) {
        self.progress_wanted.remove(&stream);
        if let Some(stream) = self.streams.remove(&stream) {
            stream.sink.close();
            for id in stream.watches.into_values() {
                self.remove(id);
            }
        }
    }

    /// Adds a watch; `current` is the newest revision a client can have seen. Returns the watch's id.
    pub fn create(
        &mut self,
        stream_id: StreamId,
        request: &WatchCreateRequest,
        range: KeyRange,
        current: i64,
    ) -> Result<i64, &'static str> {
        if range.is_empty() {
            return Err(EMPTY_RANGE);
        }
        self.next_id += 1;
        let id = self.next_id;
        let stream = self.streams.get_mut(&stream_id).ok_or(DUPLICATE_ID)?;
        let watch_id = if request.watch_id != 0 { request.watch_id } else { stream.free_watch_id() };
        if stream.watches.contains_key(&watch_id) {
            return Err(DUPLICATE_ID);
        }
        stream.watches.insert(watch_id, id);
        let has_filter = |filter: FilterType| request.filters.contains(&(filter as i32));
        let next_revision = if request.start_revision > 0 { request.start_revision } else { current + 1 };
        let watcher = Watcher {
            stream: stream_id,
            watch_id,
            sink: stream.sink.clone(),
            range,
            next_revision,
            no_put: has_filter(FilterType::Noput),
            no_delete: has_filter(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            progress_notify: request.progress_notify,
            idle: true,
        };
        if next_revision > self.revision {
            self.synced.insert(&watcher.range, id);
        } else {
            self.behind.insert(id);
        }
        self.watchers.insert(id, watcher);
        Ok(watch_id)
    }

    /// Ends one watch of a stream; `false` when there is none of that id.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) -> bool {
        let found = self.streams.get_mut(&stream).and_then(|stream| stream.watches.remove(&watch_id));
        if let Some(id) = found {
            self.remove(id);
        }
        found.is_some()
    }

    fn remove(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watchers.remove(&id)
            && !self.behind.remove(&id)
        {
            self.synced.remove(&watcher.range, id);
        }
    }

    /// Hands a batch to every watcher that keeps up. Those without room fall behind.
    pub fn dispatch(&mut self, batch: &[Arc<WatchEvent>], revision: i64) {
        if !self.synced.is_empty() {
            let mut matched: FxHashMap<GroupId, Vec<Arc<WatchEvent>>> = FxHashMap::default();
            for event in batch {
                self.synced.matching(event.key(), &mut |group| {
                    matched.entry(group).or_default().push(event.clone());
                });
            }
            for (group, events) in matched {
                self.deliver_to_group(group, events, revision);
            }
        }
        self.revision = self.revision.max(revision);
        self.answer_progress();
    }

    fn deliver_to_group(&mut self, group: GroupId, events: Vec<Arc<WatchEvent>>, revision: i64) {
        let Some(first) = events.first().map(|event| event.revision()) else { return };
        let shared = EventBatch::new(events);
        let mut full = Vec::new();
        for id in self.synced.members(group) {
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            if !watcher.sink.has_room() {
                watcher.next_revision = watcher.next_revision.max(first);
                full.push(*id);
                continue;
            }
            deliver(watcher, &shared, first, revision);
        }
        for id in full {
            self.fall_behind(id);
        }
    }

    fn fall_behind(&mut self, id: WatcherId) {
        if let Some(watcher) = self.watchers.get(&id) {
            self.synced.remove(&watcher.range, id);
            self.behind.insert(id);
        }
    }

    /// The published changes could not all be kept: everybody reads history from here on.
    pub fn all_fall_behind(&mut self) {
        let ids: Vec<WatcherId> =
            self.watchers.keys().copied().filter(|id| !self.behind.contains(id)).collect();
        for id in ids {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.next_revision = watcher.next_revision.max(self.revision + 1);
            }
            self.fall_behind(id);
        }
    }

    /// Watchers that are behind and could take events now.
    pub fn behind_with_room(&self) -> Vec<(WatcherId, KeyRange, i64, bool)> {
        let ready = self.behind.iter().filter_map(|id| self.watchers.get(id).map(|watcher| (*id, watcher)));
        ready
            .filter(|(_, watcher)| watcher.sink.has_room())
            .map(|(id, watcher)| (id, watcher.range.clone(), watcher.next_revision, watcher.prev_kv))
            .collect()
    }

    /// Gives a watcher that is behind what history holds for it up to `upto`, and lets it join the others
    /// when that is all there is.
    pub fn caught_up_to(&mut self, id: WatcherId, events: Vec<Arc<WatchEvent>>, upto: i64, revision: i64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if !self.behind.contains(&id) || watcher.next_revision > upto {
            return;
        }
        if let Some(first) = events.first().map(|event| event.revision()) {
            deliver(watcher, &EventBatch::new(events), first, revision);
        }
        watcher.next_revision = upto + 1;
        self.join_if_current(id);
    }

    /// A watcher whose next revision lies ahead of what has been handed out keeps up from now on.
    fn join_if_current(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.get(&id) else { return };
        if watcher.next_revision > self.revision && self.behind.remove(&id) {
            self.synced.insert(&watcher.range, id);
            self.answer_progress();
        }
    }

    /// Ends a watcher whose history is gone.
    pub fn cancel_compacted(&mut self, id: WatcherId, compact_revision: i64, reason: &str) {
        let Some(watcher) = self.watchers.get(&id) else { return };
        watcher.sink.push(WatchUpdate::Canceled {
            watch_id: watcher.watch_id,
            revision: self.revision,
            compact_revision,
            reason: reason.to_owned(),
        });
        let (stream, watch_id) = (watcher.stream, watcher.watch_id);
        self.cancel(stream, watch_id);
    }

    /// Asks for one progress mark for the whole stream, sent as soon as all its watches keep up.
    pub fn request_progress(&mut self, stream: StreamId) {
        self.progress_wanted.insert(stream);
        self.answer_progress();
    }

    fn answer_progress(&mut self) {
        let (behind, streams, revision) = (&self.behind, &self.streams, self.revision);
        self.progress_wanted.retain(|stream| {
            let Some(stream) = streams.get(stream) else { return false };
            if stream.watches.values().any(|id| behind.contains(id)) {
                return true;
            }
            stream.sink.push(WatchUpdate::Progress { watch_id: -1, revision });
            false
        });
    }

    /// Sends a mark to every watch that asked for them and has been quiet since the last tick.
    pub fn progress_tick(&mut self) {
        let (behind, revision) = (&self.behind, self.revision);
        for (id, watcher) in &mut self.watchers {
            if watcher.progress_notify && !behind.contains(id) {
                if watcher.idle {
                    watcher.sink.push(WatchUpdate::Progress { watch_id: watcher.watch_id, revision });
                }
                watcher.idle = true;
            }
        }
    }
}

fn deliver(watcher: &mut Watcher, shared: &Arc<EventBatch>, first: i64, revision: i64) {
    let events = if watcher.wants_everything_from(first) {
        shared.clone()
    } else {
        let wanted = shared.events().iter().filter(|event| watcher.wants(event)).cloned().collect::<Vec<_>>();
        if wanted.is_empty() {
            return;
        }
        EventBatch::new(wanted)
    };
    watcher.idle = false;
    watcher.sink.push(WatchUpdate::Events {
        watch_id: watcher.watch_id,
        revision,
        events,
        prev_kv: watcher.prev_kv,
    });
}
