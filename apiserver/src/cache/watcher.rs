//! One watcher's bounded queue. The hub pushes, the answer's body pulls; a full queue closes the watcher.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::event::{Event, EventType};
use super::filter::Filter;
use super::resource::ResourceCache;

/// Events waiting for one watcher. Events are shared, so the bound is on pointers: a watcher that is this far behind
/// is better served by a new list.
pub const QUEUE_LEN_MAX: usize = 4096;

/// One event as this watcher sees it.
#[derive(Clone, Debug)]
pub struct WatchItem {
    pub event: Arc<Event>,
    pub event_type: EventType,
}

/// Why a watcher gets no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It did not keep up.
    TooSlow,
    /// The cache was rebuilt, or the resource is no longer served.
    Restarted,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<WatchItem>,
    waker: Option<Waker>,
    closed: Option<Closed>,
}

/// The queue shared by the hub's side and the reader's side.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
}

impl Queue {
    /// Adds one event and wakes the reader when it sleeps; false when this found the reader too far behind.
    pub fn push(&self, item: WatchItem) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return true;
        }
        let keeps_up = inner.items.len() < QUEUE_LEN_MAX;
        if keeps_up {
            inner.items.push_back(item);
        } else {
            inner.items.clear();
            inner.closed = Some(Closed::TooSlow);
        }
        if let Some(waker) = inner.waker.take() {
            drop(inner);
            waker.wake();
        }
        keeps_up
    }

    pub fn close(&self, why: Closed) {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(why);
        if let Some(waker) = inner.waker.take() {
            drop(inner);
            waker.wake();
        }
    }
}

/// The reader's side. Dropping it takes the watcher out of its cache.
#[derive(Debug)]
pub struct Watcher {
    pub filter: Arc<Filter>,
    queue: Arc<Queue>,
    cache: Weak<ResourceCache>,
    id: usize,
}

impl Watcher {
    pub fn new(filter: Arc<Filter>, queue: Arc<Queue>, cache: Weak<ResourceCache>, id: usize) -> Self {
        Self { filter, queue, cache, id }
    }

    /// Moves up to `max` waiting events into `out`; pending when there are none. What was queued before the close is
    /// handed out first.
    pub fn poll_batch(
        &self,
        cx: &mut Context<'_>,
        out: &mut Vec<WatchItem>,
        max: usize,
    ) -> Poll<Result<(), Closed>> {
        let mut inner = self.queue.inner.lock();
        if !inner.items.is_empty() {
            let n = inner.items.len().min(max);
            out.extend(inner.items.drain(..n));
            return Poll::Ready(Ok(()));
        }
        if let Some(closed) = inner.closed {
            return Poll::Ready(Err(closed));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// As [`Watcher::poll_batch`], for `async` callers.
    pub async fn next_batch(&self, out: &mut Vec<WatchItem>, max: usize) -> Result<(), Closed> {
        std::future::poll_fn(|cx| self.poll_batch(cx, out, max)).await
    }

    /// Whether so many watch the resource that the cost of each send matters.
    pub fn is_crowded(&self) -> bool {
        self.cache.upgrade().is_some_and(|cache| cache.is_crowded())
    }

    /// A revision such that every event at or below it has been handed out, or `None` while events are waiting.
    pub fn bookmark(&self) -> Option<i64> {
        let revision = self.cache.upgrade()?.revision();
        self.queue.inner.lock().items.is_empty().then_some(revision)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.remove_watcher(self.id, &self.filter);
        }
    }
}
