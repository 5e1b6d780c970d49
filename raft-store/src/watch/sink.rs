//! The bounded queue between the hub and one watch stream.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::WatchUpdate;

/// Events a stream may have waiting; beyond that its watchers read history instead.
const EVENTS_MAX: usize = 16_384;
/// Bytes of events a stream may have waiting. They are shared with other streams, so this is an upper bound.
const BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
struct Queue {
    updates: VecDeque<(WatchUpdate, usize, usize)>,
    events: usize,
    bytes: usize,
    closed: bool,
}

/// The queue of one stream. One side pushes under the hub's lock, the other waits.
#[derive(Default)]
pub struct Sink {
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Sink {
    /// Whether an update would be taken now. An empty queue takes anything, so a huge revision gets through.
    pub fn has_room(&self) -> bool {
        let queue = self.queue.lock();
        queue.updates.is_empty() || (queue.events < EVENTS_MAX && queue.bytes < BYTES_MAX)
    }

    /// Adds an update; control updates (progress, cancel) are always taken.
    pub fn push(&self, update: WatchUpdate) {
        let (events, bytes) = match &update {
            WatchUpdate::Events { events, .. } => (events.events().len(), events.size_bytes()),
            WatchUpdate::Progress { .. } | WatchUpdate::Canceled { .. } => (0, 0),
        };
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        queue.events += events;
        queue.bytes += bytes;
        queue.updates.push_back((update, events, bytes));
        drop(queue);
        self.filled.notify_one();
    }

    /// Drops what waits for a watch.
    pub fn forget(&self, watch_id: i64) {
        let mut guard = self.queue.lock();
        let queue = &mut *guard;
        queue.updates.retain(|(update, events, bytes)| {
            let is_kept = update.watch_id() != watch_id;
            if !is_kept {
                queue.events -= events;
                queue.bytes -= bytes;
            }
            is_kept
        });
    }

    /// Takes the next update if there is one. `true` beside it when the queue has just drained enough to let
    /// watchers that are behind go on.
    pub fn try_pop(&self) -> Option<(WatchUpdate, bool)> {
        let mut queue = self.queue.lock();
        let (update, events, bytes) = queue.updates.pop_front()?;
        let was_full = queue.events >= EVENTS_MAX || queue.bytes >= BYTES_MAX;
        queue.events -= events;
        queue.bytes -= bytes;
        let is_full = queue.events >= EVENTS_MAX || queue.bytes >= BYTES_MAX;
        Some((update, (was_full && !is_full) || queue.updates.is_empty()))
    }

    /// Waits for the next update; nothing when the sink was closed and is empty.
    pub async fn pop(&self) -> Option<(WatchUpdate, bool)> {
        loop {
            let filled = self.filled.notified();
            if let Some(found) = self.try_pop() {
                return Some(found);
            }
            if self.queue.lock().closed {
                return None;
            }
            filled.await;
        }
    }

    /// No more updates will come.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_is_over_leaves_nothing_behind() {
        let sink = Sink::default();
        for (watch_id, revision) in [(1, 5), (2, 5), (1, 6), (2, 7)] {
            sink.push(WatchUpdate::Progress { watch_id, revision });
        }
        sink.forget(1);
        let left: Vec<_> =
            std::iter::from_fn(|| sink.try_pop()).map(|(update, _)| update.watch_id()).collect();
        assert_eq!(left, [2, 2]);
    }
}
