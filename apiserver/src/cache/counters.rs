//! What a cache has done since it was made, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one resource's cache.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events taken from the store.
    pub events: Count,
    /// Events put into watchers' queues.
    pub dispatched: Count,
    /// Loads from the store.
    pub loads: Count,
    /// Watchers that did not keep up.
    pub terminated: Count,
    /// Lists answered, and objects in those answers.
    pub lists: Count,
    pub list_returned: Count,
}
