//! When a leader was last heard of, and whether its process is known to be gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::types::MemberId;

/// Written for every message of a leader, read by whoever must know whether there is one.
pub struct Heard {
    started: Instant,
    at_millis: AtomicU64,
    ended: Notify,
    gone: Mutex<Option<(MemberId, u64)>>,
}

impl Default for Heard {
    /// As if a leader had spoken just now: a member that starts gives it time to.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            at_millis: AtomicU64::new(0),
            ended: Notify::new(),
            gone: Mutex::default(),
        }
    }
}

impl Heard {
    fn now_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A leader has spoken.
    pub fn note(&self) {
        self.at_millis.store(self.now_millis(), Ordering::Relaxed);
    }

    /// Time since then.
    pub fn elapsed(&self) -> Duration {
        Duration::from_millis(self.now_millis().saturating_sub(self.at_millis.load(Ordering::Relaxed)))
    }

    /// Waits until a leader's stream of entries has broken; once for any number of them.
    pub async fn stream_ended(&self) {
        self.ended.notified().await;
    }

    /// The process of the member that leads in `term` has been found gone.
    pub fn set_gone(&self, leader: MemberId, term: u64) {
        *self.gone.lock() = Some((leader, term));
    }

    /// Whether it has.
    pub fn is_gone(&self, leader: MemberId, term: u64) -> bool {
        *self.gone.lock() == Some((leader, term))
    }
}

/// A leader's stream, which says so when it breaks. One that ends in order is no sign: every heartbeat is such a stream.
pub struct HeardStream {
    heard: Arc<Heard>,
    in_order: AtomicBool,
}

impl HeardStream {
    /// One that has begun.
    pub fn new(heard: Arc<Heard>) -> Self {
        Self { heard, in_order: AtomicBool::new(false) }
    }

    /// A message has come over it.
    pub fn note(&self) {
        self.heard.note();
    }

    /// The leader has said that nothing more comes.
    pub fn end_in_order(&self) {
        self.in_order.store(true, Ordering::Relaxed);
    }
}

impl Drop for HeardStream {
    fn drop(&mut self) {
        if !self.in_order.load(Ordering::Relaxed) {
            self.heard.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn only_a_broken_stream_is_a_sign() {
        let heard = Arc::new(Heard::default());
        let orderly = HeardStream::new(heard.clone());
        orderly.end_in_order();
        drop(orderly);
        assert_eq!(heard.stream_ended().now_or_never(), None);
        drop(HeardStream::new(heard.clone()));
        assert_eq!(heard.stream_ended().now_or_never(), Some(()));
    }
}
