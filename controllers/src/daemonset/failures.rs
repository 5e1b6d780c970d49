//! How often a node's daemon pods have failed lately: each replacement waits twice as long as the one before, so that a
//! node that refuses its pod is not asked every second. Losing this memory costs a few quick tries.

use std::time::Duration;

use rustc_hash::FxHashMap;

/// The first pause and the longest (upstream's).
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(900);

struct Failed {
    pod: String,
    pause: Duration,
    at: Duration,
}

/// Failures by set and node. Times are since the process began.
#[derive(Default)]
pub struct Failures {
    by_place: FxHashMap<(String, String), Failed>,
}

impl Failures {
    /// A pod of a set was found failed on a node: how long it must stay before it is replaced.
    pub fn pause(&mut self, set: &str, node: &str, pod: &str, now: Duration) -> Duration {
        let place = (set.to_string(), node.to_string());
        if let Some(last) = self.by_place.get(&place).filter(|last| last.pod == pod) {
            return (last.at + last.pause).saturating_sub(now);
        }
        let last = self.by_place.get(&place).filter(|last| now.saturating_sub(last.at) < PAUSE_MAX * 2);
        // The very first failure is replaced at once.
        let pause = last.map_or(Duration::ZERO, |last| (last.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX));
        self.by_place.insert(place, Failed { pod: pod.to_string(), pause, at: now });
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_forgotten() {
        let mut failures = Failures::default();
        let secs = Duration::from_secs;
        let mut pause = |pod: &str, now: u64| failures.pause("ns/agent", "n", pod, secs(now));
        assert_eq!(pause("a", 0), secs(0));
        assert_eq!(pause("b", 1), secs(1));
        assert_eq!(pause("b", 2), secs(0), "the same pod, later");
        assert_eq!(pause("c", 3), secs(2));
        assert_eq!(pause("d", 6), secs(4));
        assert_eq!(pause("e", 4000), secs(0), "long ago");
    }
}
