//! When the NOSPACE that a member raised for want of disk goes by itself. One that was raised for the quota stays until
//! somebody lowers it, as etcd's.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// An alarm that was raised while the disk was full may be in the log only so long after it.
const SETTLES: Duration = Duration::from_secs(30);

/// What requests and housekeeping tell each other of space.
#[derive(Default)]
pub struct Space {
    /// The state has reached its quota, or the disk its reserve.
    pub is_full: AtomicBool,
    /// Somebody asked for NOSPACE; housekeeping takes note of it.
    pub alarm_is_wanted: AtomicBool,
}

/// What a member remembers of its disk. Pure.
pub struct DiskAlarm {
    /// When the disk was full last, while the alarm may still be there for it.
    full_at: Option<Instant>,
}

impl DiskAlarm {
    /// A full disk may have ended the run before this one.
    pub fn at_start(now: Instant) -> Self {
        Self { full_at: Some(now) }
    }

    /// Somebody asked for the alarm, and lowers it.
    pub fn is_wanted(&mut self) {
        self.full_at = None;
    }

    /// Whether to lower the member's alarm now. Asked again and again: lowering may fail, and so may the alarm come late.
    pub fn is_over(&mut self, now: Instant, disk_is_full: bool, over_quota: bool, is_raised: bool) -> bool {
        if disk_is_full {
            self.full_at = Some(now);
            return false;
        }
        let is_old = |at: &Instant| !is_raised && now.duration_since(*at) > SETTLES;
        if over_quota || self.full_at.as_ref().is_some_and(is_old) {
            self.full_at = None;
        }
        is_raised && self.full_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, whether the disk is full, whether the quota is exceeded, whether the alarm is raised; the answer.
    type Step = (u64, bool, bool, bool, bool);

    fn check(what: &str, steps: &[Step]) {
        let start = Instant::now();
        let mut alarm = DiskAlarm::at_start(start);
        for &(at, full, over, raised, expected) in steps {
            let now = start + Duration::from_secs(at);
            assert_eq!(alarm.is_over(now, full, over, raised), expected, "{what}, after {at} s");
        }
    }

    #[test]
    fn the_disks_alarm_goes_and_the_quotas_stays() {
        let (yes, no) = (true, false);
        check("of a run before", &[(0, no, no, yes, yes), (1, no, no, yes, yes), (2, no, no, no, no)]);
        check("of a run before, late", &[(1, no, no, no, no), (9, no, no, yes, yes)]);
        check("somebody else's, later", &[(31, no, no, no, no), (32, no, no, yes, no)]);
        check("the quota's", &[(0, no, yes, yes, no), (1, no, no, yes, no)]);
        check("the disk's", &[(99, yes, no, yes, no), (100, no, no, yes, yes)]);
        check("lowering fails", &[(0, yes, no, yes, no), (99, no, no, yes, yes)]);
        let mut asked_for = DiskAlarm::at_start(Instant::now());
        asked_for.is_wanted();
        assert!(!asked_for.is_over(Instant::now(), no, no, yes));
    }
}
