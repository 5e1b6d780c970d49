//! Leases for objects that expire by themselves: objects written within a short time share one, so that a burst of
//! events does not become a burst of leases.
//!
//! The rules and numbers are upstream's (`storage/etcd3/lease_manager.go`): a lease outlives the time asked for by
//! the time it may be shared, so no object lives shorter than it was promised.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Store, StoreError};

/// A lease is handed out again for this long at most, and for at most this share of the life it gives.
const SHARED_MAX: Duration = Duration::from_secs(60);
const SHARED_PERCENT: u32 = 5;
/// Objects on one lease: all of them are deleted in one step when it ends.
const OBJECTS_MAX: usize = 1000;

/// The lease that new objects hang on.
#[derive(Clone, Copy, Debug)]
struct Current {
    id: i64,
    ends: Instant,
    objects: usize,
}

impl Current {
    /// Whether one more object of this life may hang on it.
    fn serves(&self, ttl: Duration, now: Instant) -> bool {
        self.objects < OBJECTS_MAX && self.ends >= now + ttl
    }
}

/// Hands out leases of one length.
pub struct SharedLeases {
    store: Arc<dyn Store>,
    ttl: Duration,
    current: tokio::sync::Mutex<Option<Current>>,
}

impl SharedLeases {
    pub fn new(store: Arc<dyn Store>, ttl: Duration) -> Self {
        Self { store, ttl, current: tokio::sync::Mutex::new(None) }
    }

    /// A lease that lasts for the promised time at least, counted as used once.
    pub async fn current(&self) -> Result<i64, StoreError> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(lease) = current.as_mut().filter(|lease| lease.serves(self.ttl, now)) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let life = self.ttl + shared_for(self.ttl);
        let secs = i64::try_from(life.as_secs().max(1)).unwrap_or(i64::MAX);
        let granted = self.store.lease_grant(secs).await?;
        *current = Some(Current { id: granted.id, ends: now + life, objects: 1 });
        Ok(granted.id)
    }
}

fn shared_for(ttl: Duration) -> Duration {
    (ttl * SHARED_PERCENT / 100).min(SHARED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_while_it_keeps_its_promise() {
        let start = Instant::now();
        let ttl = Duration::from_secs(3600);
        assert_eq!(
            (shared_for(ttl), shared_for(Duration::from_secs(100))),
            (SHARED_MAX, Duration::from_secs(5))
        );
        let lease = |objects| Current { id: 1, ends: start + ttl + SHARED_MAX, objects };
        for (objects, after_secs, serves) in
            [(1, 0, true), (1, 60, true), (1, 61, false), (OBJECTS_MAX, 0, false)]
        {
            let now = start + Duration::from_secs(after_secs);
            assert_eq!(lease(objects).serves(ttl, now), serves, "{objects} {after_secs}");
        }
    }
}
