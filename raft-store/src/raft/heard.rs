//! When a leader was last heard of.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Written for every message of a leader, read by whoever must know whether there is one.
pub struct Heard {
    started: Instant,
    at_millis: AtomicU64,
}

impl Default for Heard {
    /// As if a leader had spoken just now: a member that starts gives it time to.
    fn default() -> Self {
        Self { started: Instant::now(), at_millis: AtomicU64::new(0) }
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
}
