//! Exponential back-off per key, as upstream's `flowcontrol.Backoff` counts it: an entry doubles with every
//! use, and is forgotten when nothing happened for twice the longest delay.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// First delay of restarts and image pulls.
pub const BACKOFF_INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay of restarts and image pulls.
pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);

#[derive(Clone, Debug)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

/// The delays of one pod's containers or images.
#[derive(Clone, Debug)]
pub struct Backoffs {
    initial: SignedDuration,
    max: SignedDuration,
    entries: BTreeMap<String, Entry>,
}

impl Default for Backoffs {
    fn default() -> Self {
        Self::new(BACKOFF_INITIAL, BACKOFF_MAX)
    }
}

impl Backoffs {
    /// Delays from `initial`, doubling up to `max`.
    pub fn new(initial: SignedDuration, max: SignedDuration) -> Self {
        Self { initial: initial.min(max), max, entries: BTreeMap::new() }
    }

    fn expired(&self, event: Timestamp, entry: &Entry) -> bool {
        event.duration_since(entry.updated) > self.max * 2
    }

    /// While the delay counted from `event` lasts: the delay and when it ends.
    pub fn waiting(
        &self,
        key: &str,
        event: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, Timestamp)> {
        let entry = self.entries.get(key)?;
        if self.expired(event, entry) {
            return None;
        }
        let until = event.saturating_add(entry.delay).unwrap_or(Timestamp::MAX);
        (now < until).then_some((entry.delay, until))
    }

    /// Counts one more attempt.
    pub fn advance(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let next = match self.entries.get(key) {
            Some(entry) if !self.expired(event, entry) => (entry.delay * 2).min(self.max),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), Entry { delay: next, updated: now });
    }

    /// Forgets a key: the next failure starts from the first delay.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A duration as Go prints it (`10s`, `1m20s`, `5m0s`), for messages that clients compare.
pub fn go_duration(duration: SignedDuration) -> String {
    let total = duration.as_secs();
    let (hours, minutes, secs) = (total / 3600, total / 60 % 60, total % 60);
    match (hours, minutes) {
        (0, 0) => format!("{secs}s"),
        (0, _) => format!("{minutes}m{secs}s"),
        _ => format!("{hours}h{minutes}m{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + secs).expect("in range")
    }

    #[test]
    fn doubles_to_the_ceiling_and_forgets_after_rest() {
        let mut backoffs = Backoffs::default();
        let mut delays = Vec::new();
        let mut now = 0;
        for _ in 0..7 {
            backoffs.advance("c", at(now), at(now));
            let (delay, until) = backoffs.waiting("c", at(now), at(now)).expect("waiting");
            assert_eq!(until, at(now + delay.as_secs()));
            assert_eq!(backoffs.waiting("c", at(now), until), None);
            delays.push(go_duration(delay));
            now += delay.as_secs() + 1;
        }
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        backoffs.advance("c", at(now + 601), at(now + 601));
        assert_eq!(backoffs.waiting("c", at(now + 601), at(now + 601)).map(|w| w.0.as_secs()), Some(10));
    }
}
