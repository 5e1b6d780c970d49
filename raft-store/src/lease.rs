//! The lease table: which leases exist, and on the leader when each runs out.
//!
//! Existence and granted time are replicated state, changed only by the apply loop. Deadlines are the
//! leader's own: a new leader starts every lease afresh, so a lease never ends early, only late. Time comes
//! in as milliseconds of a monotonic clock; the table never looks at one. Does not know keys: those stand
//! in the `LeaseKeys` rows.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// Longest time a lease may be granted, in seconds; etcd's own bound.
pub const LEASE_TTL_SECS_MAX: i64 = 9_000_000_000;
/// How long an expired lease waits for its revocation to be applied before it is proposed again.
const EXPIRE_RETRY_MILLIS: u64 = 2_000;

/// A point on the monotonic clock, in milliseconds since some fixed instant of this process.
pub type Millis = u64;

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl_secs: i64,
    /// Set on the leader only.
    deadline: Option<Millis>,
    /// Its time was over and its revocation has been proposed.
    ending: bool,
}

/// All leases of the store.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: HashMap<i64, Lease>,
    /// Deadlines, earliest first; an entry that no longer equals the lease's deadline is stale.
    queue: BinaryHeap<Reverse<(Millis, i64)>>,
    primary: bool,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Whole seconds left.
    pub ttl_secs: i64,
    /// Seconds granted.
    pub granted_secs: i64,
}

impl LeaseTable {
    /// Adds a lease; `false` when the id is taken.
    pub fn grant(&mut self, id: i64, ttl_secs: i64, now: Millis) -> bool {
        if self.leases.contains_key(&id) {
            return false;
        }
        self.leases.insert(id, Lease { ttl_secs, deadline: None, ending: false });
        if self.primary {
            self.set_deadline(id, deadline(ttl_secs, now));
        }
        true
    }

    /// Removes a lease; `false` when there was none.
    pub fn revoke(&mut self, id: i64) -> bool {
        self.leases.remove(&id).is_some()
    }

    /// Whether this member keeps the time.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Whether the lease exists.
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Every id, ascending.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.leases.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Starts the full time of a lease again; nothing when it does not exist, when its revocation is already on its
    /// way (etcd: a lease that has run out is not renewed), or when this member does not keep time because it is not
    /// the leader.
    pub fn renew(&mut self, id: i64, now: Millis) -> Option<i64> {
        if !self.primary {
            return None;
        }
        let lease = *self.leases.get(&id).filter(|lease| !lease.ending)?;
        self.set_deadline(id, deadline(lease.ttl_secs, now));
        Some(lease.ttl_secs)
    }

    /// What is left of a lease; on a follower, which keeps no time, all of it.
    pub fn remaining(&self, id: i64, now: Millis) -> Option<Remaining> {
        let lease = self.leases.get(&id)?;
        let ttl_secs = match lease.deadline {
            Some(deadline) => i64::try_from(deadline.saturating_sub(now) / 1000).unwrap_or(i64::MAX),
            None => lease.ttl_secs,
        };
        Some(Remaining { ttl_secs, granted_secs: lease.ttl_secs })
    }

    /// This member leads now: every lease gets its full time, plus `grace` for the time without a leader.
    pub fn become_primary(&mut self, now: Millis, grace: Millis) {
        self.primary = true;
        self.queue.clear();
        let ids: Vec<(i64, i64)> = self.leases.iter().map(|(id, lease)| (*id, lease.ttl_secs)).collect();
        self.leases.values_mut().for_each(|lease| lease.ending = false);
        for (id, ttl_secs) in ids {
            self.set_deadline(id, deadline(ttl_secs, now) + grace);
        }
    }

    /// The planted bug: a new leader that does not start the clocks of the leases it finds.
    #[cfg(feature = "planted-bugs")]
    pub fn forget_deadlines(&mut self) {
        self.queue.clear();
        self.leases.values_mut().for_each(|lease| lease.deadline = None);
    }

    /// This member leads no more and stops keeping time.
    pub fn become_follower(&mut self) {
        self.primary = false;
        self.queue.clear();
        self.leases.values_mut().for_each(|lease| (lease.deadline, lease.ending) = (None, false));
    }

    /// Takes up to `max` leases whose time is over. They stay in the table until their revocation is
    /// applied, and come up again when that takes too long.
    pub fn take_expired(&mut self, now: Millis, max: usize) -> Vec<i64> {
        let mut expired = Vec::new();
        while expired.len() < max {
            match self.queue.peek() {
                Some(Reverse((deadline, _))) if *deadline <= now => {}
                _ => break,
            }
            let Some(Reverse((deadline, id))) = self.queue.pop() else { break };
            if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.deadline == Some(deadline)) {
                lease.ending = true;
                self.set_deadline(id, now + EXPIRE_RETRY_MILLIS);
                expired.push(id);
            }
        }
        expired
    }

    /// When the next lease runs out, on the leader.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    fn set_deadline(&mut self, id: i64, deadline: Millis) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.deadline = Some(deadline);
            self.queue.push(Reverse((deadline, id)));
        }
        // Renewals leave stale entries behind; past this they would outweigh the leases themselves.
        if self.queue.len() > 64 + 4 * self.leases.len() {
            let live =
                self.leases.iter().filter_map(|(id, lease)| lease.deadline.map(|at| Reverse((at, *id))));
            self.queue = live.collect();
        }
    }
}

fn deadline(ttl_secs: i64, now: Millis) -> Millis {
    now.saturating_add(u64::try_from(ttl_secs).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_primary_expires_and_renews() {
        let mut table = LeaseTable::default();
        assert!(table.grant(7, 5, 0));
        assert!(!table.grant(7, 9, 0));
        assert_eq!(table.renew(7, 0), None);
        assert_eq!(table.take_expired(1_000_000, 10), Vec::<i64>::new());
        table.become_primary(10_000, 1_000);
        assert_eq!(table.take_expired(15_999, 10), Vec::<i64>::new());
        assert_eq!(table.renew(7, 12_000), Some(5));
        assert_eq!(table.take_expired(16_500, 10), Vec::<i64>::new());
        assert_eq!(table.take_expired(17_000, 10), vec![7]);
    }

    #[test]
    fn an_expired_lease_comes_up_again_until_it_is_revoked() {
        let mut table = LeaseTable::default();
        table.become_primary(0, 0);
        table.grant(1, 1, 0);
        assert_eq!(table.take_expired(1_000, 10), vec![1]);
        assert_eq!(table.take_expired(1_500, 10), Vec::<i64>::new());
        assert_eq!(table.renew(1, 1_600), None, "its revocation may be applied at any moment");
        assert_eq!(table.take_expired(3_000, 10), vec![1]);
        assert!(table.revoke(1));
        assert_eq!(table.take_expired(9_000, 10), Vec::<i64>::new());
    }

    #[test]
    fn a_new_leader_never_shortens_a_lease() {
        let mut table = LeaseTable::default();
        table.become_primary(0, 0);
        table.grant(1, 10, 0);
        table.become_follower();
        assert_eq!(table.remaining(1, 9_000), Some(Remaining { ttl_secs: 10, granted_secs: 10 }));
        table.become_primary(9_000, 0);
        assert_eq!(table.remaining(1, 9_000), Some(Remaining { ttl_secs: 10, granted_secs: 10 }));
    }

    #[test]
    fn many_renewals_do_not_grow_the_queue() {
        let mut table = LeaseTable::default();
        table.become_primary(0, 0);
        table.grant(1, 10, 0);
        for now in 0..10_000 {
            table.renew(1, now);
        }
        assert!(table.queue.len() < 200);
        assert_eq!(table.take_expired(19_999, 10), vec![1]);
    }
}
