//! The decisions of leader election, without clock, network or randomness.
//!
//! Invariant: expiry is judged by how long this process has not seen the record change, by its own monotonic
//! clock, never by comparing another machine's wall clock with ours.

use std::time::Duration;

use jiff::Timestamp;

use super::Config;

/// What the Lease says (its spec).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Empty when nobody holds it.
    pub holder: String,
    pub lease_duration_secs: i32,
    pub acquire_time: Option<Timestamp>,
    pub renew_time: Option<Timestamp>,
    pub transitions: i32,
}

/// What to do with the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make it with this record.
    Create(Record),
    /// Write this record over the one that was fetched (same resourceVersion).
    Update(Record),
    /// Somebody holds it.
    Wait,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    lease_duration: Duration,
    observed: Option<Record>,
    /// Monotonic time at which `observed` was first seen.
    observed_at: Duration,
}

impl Elector {
    pub fn new(config: &Config) -> Self {
        Elector {
            identity: config.identity.clone(),
            lease_duration: config.lease_duration,
            observed: None,
            observed_at: Duration::ZERO,
        }
    }

    /// Whether this candidate held the Lease when it was last seen.
    pub fn is_leader(&self) -> bool {
        self.observed.as_ref().is_some_and(|r| r.holder == self.identity)
    }

    /// Who held it when it was last seen.
    pub fn leader(&self) -> &str {
        self.observed.as_ref().map_or("", |r| r.holder.as_str())
    }

    /// Decides on the fetched record, `None` when there is no Lease. `mono` is this process's monotonic clock,
    /// `wall` goes into the record.
    pub fn decide(&mut self, current: Option<&Record>, mono: Duration, wall: Timestamp) -> Action {
        let Some(current) = current else {
            return Action::Create(self.record(Some(wall), wall, 0));
        };
        self.observe(current, mono);
        let held = !current.holder.is_empty() && current.holder != self.identity;
        let secs = u64::try_from(current.lease_duration_secs).unwrap_or(0);
        if held && mono < self.observed_at + Duration::from_secs(secs) {
            return Action::Wait;
        }
        Action::Update(if current.holder == self.identity {
            self.record(current.acquire_time, wall, current.transitions)
        } else {
            self.record(Some(wall), wall, current.transitions.saturating_add(1))
        })
    }

    /// Takes note of a record that was fetched or written.
    pub fn observe(&mut self, record: &Record, mono: Duration) {
        if self.observed.as_ref() != Some(record) {
            self.observed = Some(record.clone());
            self.observed_at = mono;
        }
    }

    /// The record that gives the Lease away, `None` unless this candidate holds it.
    pub fn release(&self, wall: Timestamp) -> Option<Record> {
        let held = self.observed.as_ref().filter(|r| r.holder == self.identity)?;
        Some(Record {
            holder: String::new(),
            lease_duration_secs: 1,
            acquire_time: Some(wall),
            renew_time: Some(wall),
            transitions: held.transitions,
        })
    }

    fn record(&self, acquired: Option<Timestamp>, wall: Timestamp, transitions: i32) -> Record {
        Record {
            holder: self.identity.clone(),
            // Rounded up: others must never think it shorter than it is.
            lease_duration_secs: i32::try_from(self.lease_duration.as_millis().div_ceil(1000))
                .unwrap_or(i32::MAX),
            acquire_time: acquired,
            renew_time: Some(wall),
            transitions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elector(name: &str) -> Elector {
        Elector::new(&Config::new("kube-system", "test", name))
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn wall(n: i64) -> Timestamp {
        Timestamp::from_second(n).expect("in range")
    }

    #[test]
    fn acquire_hold_expire_release() {
        let (mut a, mut b) = (elector("a"), elector("b"));
        let Action::Create(record) = a.decide(None, secs(0), wall(100)) else { panic!("creates") };
        a.observe(&record, secs(0));
        assert!(a.is_leader());
        assert_eq!(b.decide(Some(&record), secs(0), wall(100)), Action::Wait);
        assert_eq!(b.decide(Some(&record), secs(14), wall(114)), Action::Wait);

        let Action::Update(renewed) = a.decide(Some(&record), secs(10), wall(110)) else { panic!("renews") };
        assert_eq!((renewed.transitions, renewed.acquire_time), (0, Some(wall(100))));
        // The change restarts b's wait.
        assert_eq!(b.decide(Some(&renewed), secs(20), wall(120)), Action::Wait);
        assert_eq!(b.decide(Some(&renewed), secs(34), wall(134)), Action::Wait);
        let Action::Update(taken) = b.decide(Some(&renewed), secs(35), wall(135)) else {
            panic!("takes over")
        };
        assert_eq!((taken.holder.as_str(), taken.transitions, taken.acquire_time), ("b", 1, Some(wall(135))));

        b.observe(&taken, secs(35));
        let released = b.release(wall(140)).expect("b holds it");
        assert_eq!(a.release(wall(140)).map(|r| r.holder), Some(String::new()));
        let Action::Update(again) = a.decide(Some(&released), secs(41), wall(141)) else { panic!("free") };
        assert_eq!((again.holder.as_str(), again.transitions), ("a", 2));
        assert_eq!(elector("c").release(wall(1)), None);
    }

    #[test]
    fn relations_are_checked() {
        let mut config = Config::new("n", "l", "i");
        assert!(config.check().is_ok());
        config.renew_deadline = secs(15);
        assert!(config.check().is_err());
        config.renew_deadline = secs(2);
        assert!(config.check().is_err());
    }
}
