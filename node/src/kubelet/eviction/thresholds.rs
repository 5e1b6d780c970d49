//! When a resource counts as short: thresholds as they are configured, and which of them are met, for how long. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::kubelet::quantity;

/// A resource whose shortage is watched, with the amount left and the whole.
pub type Left = BTreeMap<&'static str, (u64, u64)>;

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Memory.
    pub memory: bool,
    /// A disk or its inodes.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

/// One threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// `memory.available`, `nodefs.available`…
    pub signal: String,
    /// An amount (`100Mi`) or a share (`10%`).
    pub value: String,
    /// How long it must have been met before a pod goes; `None` is a hard threshold.
    pub grace: Option<Duration>,
    /// What must be free beyond the value before it counts as unmet again.
    pub min_reclaim: Option<String>,
}

/// What a signal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Disk space.
    Disk,
    /// Inodes.
    Inodes,
    /// Process ids.
    Pids,
}

impl Resource {
    /// The resource behind a signal; `None` for names upstream does not have either.
    pub fn of(signal: &str) -> Option<Self> {
        match signal {
            "memory.available" | "allocatableMemory.available" => Some(Self::Memory),
            "nodefs.available" | "imagefs.available" | "containerfs.available" => Some(Self::Disk),
            "nodefs.inodesFree" | "imagefs.inodesFree" | "containerfs.inodesFree" => Some(Self::Inodes),
            "pid.available" => Some(Self::Pids),
            _ => None,
        }
    }

    /// The word in messages and in a pod's requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// A threshold in units: an amount or a share of `of`.
pub fn amount(text: &str, of: u64) -> u64 {
    if let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<f64>().ok()) {
        return (of as f64 * percent / 100.0) as u64;
    }
    let amount = quantity::parse_nano(text).unwrap_or(0) / quantity::NANO;
    u64::try_from(amount).unwrap_or(0)
}

/// A threshold that is met and has outlasted its grace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub threshold: Threshold,
    /// What is short.
    pub resource: Resource,
    /// What is left.
    pub left: u64,
}

/// Remembers since when each threshold is met.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    since: BTreeMap<(String, bool), Duration>,
}

impl Watch {
    /// Looks once. `now` is any clock that only grows. The answer: what is short at all, and what calls for action,
    /// memory first.
    pub fn look(&mut self, thresholds: &[Threshold], left: &Left, now: Duration) -> (Signals, Vec<Due>) {
        let mut signals = Signals::default();
        let mut due = Vec::new();
        for threshold in thresholds {
            let key = (threshold.signal.clone(), threshold.grace.is_some());
            let Some((resource, left)) = self.met(threshold, left) else {
                self.since.remove(&key);
                continue;
            };
            match resource {
                Resource::Memory => signals.memory = true,
                Resource::Disk | Resource::Inodes => signals.disk = true,
                Resource::Pids => signals.pids = true,
            }
            let since = *self.since.entry(key).or_insert(now);
            if now.saturating_sub(since) >= threshold.grace.unwrap_or_default() {
                due.push(Due { threshold: threshold.clone(), resource, left });
            }
        }
        due.sort_by_key(|d| (d.resource, d.threshold.grace.is_some()));
        (signals, due)
    }

    fn met(&self, threshold: &Threshold, left: &Left) -> Option<(Resource, u64)> {
        let resource = Resource::of(&threshold.signal)?;
        let (free, all) = *left.get(threshold.signal.as_str())?;
        if all == 0 {
            return None;
        }
        let mut wanted = amount(&threshold.value, all);
        let standing = self.since.contains_key(&(threshold.signal.clone(), threshold.grace.is_some()));
        if let Some(more) = threshold.min_reclaim.as_ref().filter(|_| standing) {
            wanted = wanted.saturating_add(amount(more, all));
        }
        (free < wanted).then_some((resource, free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(signal: &str, value: &str, grace_secs: Option<u64>) -> Threshold {
        Threshold {
            signal: signal.into(),
            value: value.into(),
            grace: grace_secs.map(Duration::from_secs),
            min_reclaim: None,
        }
    }

    fn names(due: &[Due]) -> Vec<(&str, bool)> {
        due.iter().map(|d| (d.threshold.signal.as_str(), d.threshold.grace.is_some())).collect()
    }

    #[test]
    fn amounts_and_shares() {
        assert_eq!(amount("100Mi", 1 << 30), 100 << 20);
        assert_eq!(amount("10%", 1000), 100);
        assert_eq!(amount("soon", 1000), 0);
    }

    #[test]
    fn soft_thresholds_wait_and_hard_ones_do_not() {
        let thresholds = [
            threshold("nodefs.available", "10%", None),
            threshold("memory.available", "200Mi", Some(60)),
            threshold("memory.available", "100Mi", None),
        ];
        let left = |memory: u64, disk: u64| {
            Left::from([("memory.available", (memory << 20, 1 << 30)), ("nodefs.available", (disk, 1000))])
        };
        let mut watch = Watch::default();
        let at = Duration::from_secs;
        let (signals, due) = watch.look(&thresholds, &left(150, 500), at(0));
        assert_eq!((signals, names(&due)), (Signals { memory: true, ..Default::default() }, vec![]));
        let (_, due) = watch.look(&thresholds, &left(150, 500), at(59));
        assert_eq!(names(&due), []);
        let (_, due) = watch.look(&thresholds, &left(90, 50), at(60));
        assert_eq!(
            names(&due),
            [("memory.available", false), ("memory.available", true), ("nodefs.available", false)]
        );
        // A moment of relief starts the grace anew.
        watch.look(&thresholds, &left(500, 500), at(70));
        let (_, due) = watch.look(&thresholds, &left(150, 500), at(71));
        assert_eq!(names(&due), []);
    }

    #[test]
    fn a_minimum_must_be_reclaimed() {
        let mut one = threshold("nodefs.available", "100", None);
        one.min_reclaim = Some("50".into());
        let left = |free| Left::from([("nodefs.available", (free, 1000))]);
        let mut watch = Watch::default();
        let mut short = |free| watch.look(&[one.clone()], &left(free), Duration::ZERO).0.disk;
        assert_eq!(
            [short(120), short(99), short(120), short(150), short(120)],
            [false, true, true, false, false]
        );
    }
}
