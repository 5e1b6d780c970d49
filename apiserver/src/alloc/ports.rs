//! Node ports: what the stored services hold, plus what writes under way have claimed.
//!
//! Pure but for a lock. A claim lives until its write is seen in the cache, or for a while in case it never is.

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::pools::{PoolError, PortRange};

/// A claim whose write has not been seen after this long is forgotten, seconds.
const CLAIM_TTL_SECS: i64 = 60;

/// The claims of writes under way on this server.
pub struct PortClaims {
    range: PortRange,
    pending: Mutex<FxHashMap<u16, i64>>,
}

impl PortClaims {
    pub fn new(range: PortRange) -> Self {
        PortClaims { range, pending: Mutex::new(FxHashMap::default()) }
    }

    /// Claims this very port; `stored` are the ports that services hold.
    pub fn claim_exact(&self, port: u16, stored: &FxHashSet<u16>, now_secs: i64) -> Result<(), PoolError> {
        if !self.range.contains(port) {
            return Err(PoolError::PortOutOfRange(self.range));
        }
        if self.try_claim(port, stored, now_secs) { Ok(()) } else { Err(PoolError::PortTaken) }
    }

    /// Claims any free port.
    pub fn claim_any(&self, stored: &FxHashSet<u16>, now_secs: i64, random: u64) -> Result<u16, PoolError> {
        let free = |port: &u16| self.try_claim(*port, stored, now_secs);
        self.range.candidates(random).find(free).ok_or(PoolError::Full)
    }

    /// Forgets the claim.
    pub fn release(&self, port: u16) {
        self.pending.lock().remove(&port);
    }

    fn try_claim(&self, port: u16, stored: &FxHashSet<u16>, now_secs: i64) -> bool {
        let mut pending = self.pending.lock();
        pending.retain(|_, since| now_secs - *since < CLAIM_TTL_SECS);
        if stored.contains(&port) || pending.contains_key(&port) {
            return false;
        }
        pending.insert(port, now_secs);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_exclude_each_other_until_released_or_old() {
        let claims = PortClaims::new(PortRange { first: 10, last: 11 });
        let stored = FxHashSet::from_iter([10u16]);
        assert_eq!(
            claims.claim_exact(9, &stored, 0),
            Err(PoolError::PortOutOfRange(PortRange { first: 10, last: 11 }))
        );
        assert_eq!(claims.claim_exact(10, &stored, 0), Err(PoolError::PortTaken));
        assert_eq!(claims.claim_any(&stored, 0, 3), Ok(11));
        assert_eq!(claims.claim_any(&stored, 0, 3), Err(PoolError::Full));
        claims.release(11);
        assert_eq!(claims.claim_any(&stored, 1, 3), Ok(11));
        assert_eq!(claims.claim_exact(11, &stored, 100), Ok(()));
    }
}
