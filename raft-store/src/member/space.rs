//! When the NOSPACE that a member raised for want of disk goes by itself. One that was raised for the quota stays until
//! somebody lowers it, as etcd's. Pure.

use std::time::{Duration, Instant};

/// An alarm that was raised while the disk was full may be in the log only so long after it.
const SETTLES: Duration = Duration::from_secs(30);

/// What a member remembers of its disk.
#[derive(Default)]
pub struct DiskAlarm {
    /// When the disk was full last, while the alarm may still be there for it.
    full_at: Option<Instant>,
}

impl DiskAlarm {
    /// The member raised the alarm in a run before this one, which a full disk may have ended.
    pub fn left_over(&mut self, now: Instant) {
        self.full_at = Some(now);
    }

    /// Whether to lower the member's alarm now. Asked again and again: lowering may fail, and so may the alarm come late.
    pub fn is_over(&mut self, now: Instant, disk_is_full: bool, over_quota: bool, is_raised: bool) -> bool {
        if disk_is_full {
            self.full_at = Some(now);
            return false;
        }
        let Some(full_at) = self.full_at.filter(|_| !over_quota) else { return false };
        if !is_raised && now.duration_since(full_at) > SETTLES {
            self.full_at = None;
        }
        is_raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, whether the disk is full, whether the quota is exceeded, whether the alarm is raised; the answer.
    type Step = (u64, bool, bool, bool, bool);

    fn check(what: &str, left_over: bool, steps: &[Step]) {
        let start = Instant::now();
        let mut alarm = DiskAlarm::default();
        if left_over {
            alarm.left_over(start);
        }
        for &(at, full, over, raised, expected) in steps {
            let now = start + Duration::from_secs(at);
            assert_eq!(alarm.is_over(now, full, over, raised), expected, "{what}, after {at} s");
        }
    }

    #[test]
    fn the_disks_alarm_goes_and_the_quotas_stays() {
        check("somebody else's", false, &[(0, false, false, true, false), (90, false, false, true, false)]);
        check("the quota's", false, &[(0, false, true, true, false), (1, false, false, true, false)]);
        check("the disk's", false, &[(0, true, false, true, false), (1, false, false, true, true)]);
        check("lowering fails", false, &[(0, true, false, true, false), (99, false, false, true, true)]);
        let late =
            [(0, true, false, false, false), (1, false, false, false, false), (9, false, false, true, true)];
        check("raised late", false, &late);
        let settled = [
            (0, true, false, true, false),
            (31, false, false, false, false),
            (32, false, false, true, false),
        ];
        check("settled", false, &settled);
        check("of a run before", true, &[(0, false, true, true, false), (1, false, false, true, true)]);
    }
}
