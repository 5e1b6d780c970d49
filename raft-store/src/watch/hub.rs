//! The shell around the watch table: a task that hands out published changes, one that catches up watchers
//! that are behind, and the streams clients hold.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::etcdserverpb::WatchCreateRequest;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    catch_up,
    event::{WatchEvent, WatchUpdate},
    sink::Sink,
    table::{StreamId, WatchTable},
};
use crate::{blocking, error::Error, mvcc::keys::KeyRange, storage::View};

/// Events that may wait between the apply loop and the dispatcher; past it everybody reads history instead.
const PUBLISHED_EVENTS_MAX: usize = 100_000;
/// Bytes of events handed out at once: a gRPC client takes 4 MiB in one message if it is told nothing else, and etcd
/// never sends more than a transaction.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Pause after a failed step of catching up (a disk error, say), so that it does not spin.
const CATCH_UP_RETRY: Duration = Duration::from_millis(100);

/// Time that catching up leaves to others after each step, in times of what the step took: who is behind has waited
/// already, writers have not.
const CATCH_UP_REST: u32 = 2;
/// The longest such rest.
const CATCH_UP_REST_MAX: Duration = Duration::from_millis(50);

/// Timing of a hub.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// How often quiet watches that asked for it get a progress mark.
    pub progress_interval: Duration,
}

/// What a step of catching up did.
enum Caught {
    /// Some watchers got something.
    Some,
    /// None is behind that has room.
    Nobody,
}

/// Events, and the revision that everything up to has been handed out with them.
type Batch = (Vec<Arc<WatchEvent>>, i64);

#[derive(Default)]
struct Published {
    batches: VecDeque<Batch>,
    events: usize,
    overflowed: bool,
}

/// Where the apply loop publishes and clients watch.
pub struct Hub {
    table: Mutex<WatchTable>,
    /// Open streams; without any, publishing wakes nobody.
    streams: AtomicUsize,
    published: Mutex<Published>,
    arrived: Notify,
    behind: Notify,
    view: Arc<ArcSwap<View>>,
    stop: CancellationToken,
}

impl Hub {
    /// A hub over the views the apply loop stores in `view`; its tasks end with `stop`.
    pub fn start(view: Arc<ArcSwap<View>>, limits: HubLimits, stop: CancellationToken) -> Arc<Self> {
        let revision = view.load().revision;
        let hub = Arc::new(Self {
            table: Mutex::new(WatchTable::new(revision)),
            streams: AtomicUsize::new(0),
            published: Mutex::default(),
            arrived: Notify::new(),
            behind: Notify::new(),
            view,
            stop: stop.clone(),
        });
        let stopping = hub.clone();
        tokio::spawn(async move {
            stopping.stop.cancelled().await;
            stopping.table.lock().close_sinks();
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(hub.clone().dispatch_loop()));
        tokio::spawn(stop.clone().run_until_cancelled_owned(hub.clone().catch_up_loop()));
        tokio::spawn(stop.run_until_cancelled_owned(hub.clone().progress_loop(limits.progress_interval)));
        hub
    }

    /// Called by the apply loop after its view is visible. Never waits.
    pub fn publish(&self, events: Vec<Arc<WatchEvent>>, revision: i64) {
        #[cfg(feature = "planted-bugs")]
        let events = harm(events);
        let mut published = self.published.lock();
        // A stream that opens now finds the view these changes are in, and needs none of them.
        if self.streams.load(Ordering::SeqCst) == 0 && published.batches.is_empty() && !published.overflowed {
            self.table.lock().dispatch(&[], revision);
            return;
        }
        published.events += events.len();
        if published.events > PUBLISHED_EVENTS_MAX {
            published.overflowed = true;
            published.batches.clear();
            published.events = 0;
        }
        if !published.overflowed {
            push_pieces(&mut published.batches, events, revision);
        }
        drop(published);
        self.arrived.notify_one();
    }

    /// The state was replaced by a snapshot: what watchers have not seen is to be found in its history.
    pub fn replaced(&self) {
        self.published.lock().overflowed = true;
        self.arrived.notify_one();
    }

    /// Opens a stream without watches.
    pub fn stream(self: &Arc<Self>) -> WatchStream {
        self.streams.fetch_add(1, Ordering::SeqCst);
        let sink = Arc::new(Sink::default());
        let mut table = self.table.lock();
        let id = table.open(sink.clone());
        if self.stop.is_cancelled() {
            table.close_sinks();
        }
        drop(table);
        WatchStream { hub: self.clone(), sink, id }
    }

    /// Streams, watches, and watches that are behind.
    pub fn counts(&self) -> (usize, usize, usize) {
        self.table.lock().counts()
    }

    /// Events that wait to be handed out.
    pub fn waiting_events(&self) -> usize {
        self.published.lock().events
    }

    async fn dispatch_loop(self: Arc<Self>) {
        loop {
            let arrived = self.arrived.notified();
            while self.dispatch_once() {
                tokio::task::yield_now().await;
            }
            arrived.await;
        }
    }

    /// Hands out one published batch; `false` when there is none.
    fn dispatch_once(&self) -> bool {
        let mut published = self.published.lock();
        if published.overflowed {
            published.overflowed = false;
            published.batches.clear();
            published.events = 0;
            // Watchers join again from history; the newest view has all that was dropped.
            let revision = self.view.load().revision;
            let mut table = self.table.lock();
            table.all_fall_behind();
            table.dispatch(&[], revision);
            drop(table);
            self.behind.notify_one();
            return true;
        }
        let Some((events, revision)) = published.batches.pop_front() else { return false };
        published.events -= events.len();
        drop(published);
        let mut table = self.table.lock();
        let behind = table.counts().2;
        table.dispatch(&events, revision);
        if table.counts().2 > behind {
            self.behind.notify_one();
        }
        true
    }

    async fn catch_up_loop(self: Arc<Self>) {
        loop {
            let behind = self.behind.notified();
            loop {
                let hub = self.clone();
                let started = Instant::now();
                let step = blocking::run(move || hub.catch_up_once()).await;
                match step {
                    Ok(Ok(Caught::Some)) if self.counts().2 == 0 => break,
                    Ok(Ok(Caught::Some)) => {
                        tokio::time::sleep((started.elapsed() * CATCH_UP_REST).min(CATCH_UP_REST_MAX)).await;
                    }
                    Ok(Ok(Caught::Nobody)) => break,
                    Ok(Err(error)) => {
                        tracing::error!(%error, "cannot read history for watchers");
                        tokio::time::sleep(CATCH_UP_RETRY).await;
                    }
                    Err(_) => return,
                }
            }
            behind.await;
        }
    }

    /// One step for every watcher that is behind and has room.
    fn catch_up_once(&self) -> Result<Caught, Error> {
        let mut wanted = self.table.lock().behind_with_room();
        if wanted.is_empty() {
            return Ok(Caught::Nobody);
        }
        let view = self.view.load_full();
        wanted.retain(|(id, _, next, _)| {
            let gone = *next < view.compact_revision;
            if gone {
                self.table.lock().cancel_compacted(*id, view.compact_revision, Error::COMPACTED.text());
            }
            !gone
        });
        let mut step = catch_up::step(&view, &wanted)?;
        let mut table = self.table.lock();
        for (id, ..) in wanted {
            let events = step.events.remove(&id).unwrap_or_default();
            table.caught_up_to(id, events, step.upto, view.revision);
        }
        Ok(Caught::Some)
    }

    async fn progress_loop(self: Arc<Self>, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.table.lock().progress_tick();
        }
    }
}

/// Queues events in pieces of whole revisions, none much larger than `PIECE_BYTES_MAX`.
fn push_pieces(batches: &mut VecDeque<Batch>, events: Vec<Arc<WatchEvent>>, revision: i64) {
    let (mut piece, mut bytes) = (Vec::with_capacity(events.len()), 0);
    for event in events {
        let begins_revision =
            piece.last().is_some_and(|last: &Arc<WatchEvent>| last.revision() < event.revision());
        if bytes >= PIECE_BYTES_MAX && begins_revision {
            let upto = event.revision() - 1;
            batches.push_back((std::mem::take(&mut piece), upto));
            bytes = 0;
        }
        bytes += event.size_bytes();
        piece.push(event);
    }
    batches.push_back((piece, revision));
}

/// The planted bugs: now and then an event is lost, or comes twice.
#[cfg(feature = "planted-bugs")]
fn harm(events: Vec<Arc<WatchEvent>>) -> Vec<Arc<WatchEvent>> {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::planted::{Bug, EVENT_HARMED_EVERY};
    static PUBLISHED: AtomicUsize = AtomicUsize::new(0);
    let copies = match (Bug::DropWatchEvent.is_planted(), Bug::DoubleWatchEvent.is_planted()) {
        (true, _) => 0,
        (_, true) => 2,
        _ => return events,
    };
    let harmed = events.into_iter().flat_map(|event| {
        let is_harmed =
            PUBLISHED.fetch_add(1, Ordering::Relaxed) % EVENT_HARMED_EVERY == EVENT_HARMED_EVERY - 1;
        std::iter::repeat_n(event, if is_harmed { copies } else { 1 })
    });
    harmed.collect()
}

/// A stream of updates for any number of watches. Dropping it ends them all.
pub struct WatchStream {
    hub: Arc<Hub>,
    sink: Arc<Sink>,
    id: StreamId,
}

impl WatchStream {
    /// Adds a watch; its events come through `next`. Returns the watch's id and the store's revision.
    ///
    /// The error is etcd's reason why the watch cannot be. A start revision that has been compacted is not
    /// an error here: the watch is canceled through `next`, with the compact revision.
    pub fn create(&self, request: &WatchCreateRequest) -> Result<(i64, i64), &'static str> {
        let range = watch_range(request);
        let current = self.hub.view.load().revision;
        let mut table = self.hub.table.lock();
        let watch_id = table.create(self.id, request, range, current)?;
        drop(table);
        self.hub.behind.notify_one();
        Ok((watch_id, current))
    }

    /// Ends one watch; `false` when there is none of that id.
    pub fn cancel(&self, watch_id: i64) -> bool {
        let found = self.hub.table.lock().cancel(self.id, watch_id);
        if found {
            // What still waits for it would come after the word that it is over, or for another watch of its id.
            self.sink.forget(watch_id);
            self.hub.behind.notify_one();
        }
        found
    }

    /// Asks for a progress mark for the whole stream.
    pub fn request_progress(&self) {
        self.hub.table.lock().request_progress(self.id);
    }

    /// The next update; nothing after the hub has closed the stream.
    pub async fn next(&self) -> Option<WatchUpdate> {
        let (update, drained) = self.sink.pop().await?;
        if drained {
            self.hub.behind.notify_one();
        }
        Some(update)
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.hub.streams.fetch_sub(1, Ordering::SeqCst);
        self.hub.table.lock().close(self.id);
    }
}

/// etcd's rule: no key means from the first one, a single zero byte as end means to the last one.
pub fn watch_range(request: &WatchCreateRequest) -> KeyRange {
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key.clone() };
    KeyRange::new(&key, &request.range_end)
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    fn event(revision: i64, bytes: usize) -> Arc<WatchEvent> {
        let kv = KeyValue { mod_revision: revision, value: vec![0; bytes].into(), ..KeyValue::default() };
        WatchEvent::new(Event { kv: Some(kv), ..Event::default() })
    }

    #[test]
    fn large_batches_are_cut_between_revisions() {
        let half = PIECE_BYTES_MAX / 2;
        // Revision 5 has two events, which stay together.
        let events = [(3, half), (4, half), (5, half), (5, PIECE_BYTES_MAX), (6, 1), (7, 1)];
        let mut batches = VecDeque::new();
        push_pieces(&mut batches, events.map(|(revision, bytes)| event(revision, bytes)).into(), 9);
        let found: Vec<_> = batches.iter().map(|(events, upto)| (events.len(), *upto)).collect();
        assert_eq!(found, [(2, 4), (2, 5), (2, 9)]);
        push_pieces(&mut batches, Vec::new(), 10);
        assert_eq!(batches.back().map(|(events, upto)| (events.len(), *upto)), Some((0, 10)));
    }
}
