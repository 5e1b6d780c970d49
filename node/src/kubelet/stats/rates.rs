//! CPU use as a rate, from two readings of the counter.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

/// Readings closer together than this say too little: the last rate stands.
const INTERVAL_MIN_MILLIS: i128 = 1_000;
/// Counters remembered; more than a node has containers.
const REMEMBERED_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
}

/// The last reading of every counter.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Reading>>);

impl Rates {
    /// Takes a reading; the rate in billionths of a CPU once there are two of them.
    pub fn rate(&self, key: &str, nanos: u64, at: Timestamp) -> Option<u64> {
        let mut readings = self.0.lock();
        if readings.len() >= REMEMBERED_MAX {
            readings.clear();
        }
        let Some(last) = readings.get(key).copied() else {
            readings.insert(key.to_owned(), Reading { at, nanos, rate: None });
            return None;
        };
        let elapsed = at.as_nanosecond() - last.at.as_nanosecond();
        if elapsed < INTERVAL_MIN_MILLIS * 1_000_000 {
            return last.rate;
        }
        let used = i128::from(nanos.saturating_sub(last.nanos));
        let rate = u64::try_from(used * 1_000_000_000 / elapsed).ok();
        readings.insert(key.to_owned(), Reading { at, nanos, rate });
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_make_a_rate() {
        let rates = Rates::default();
        let at = |millis| Timestamp::from_millisecond(millis).expect("in range");
        assert_eq!(rates.rate("a", 0, at(0)), None);
        assert_eq!(rates.rate("a", 1, at(10)), None);
        assert_eq!(rates.rate("a", 1_000_000_000, at(2000)), Some(500_000_000));
        assert_eq!(rates.rate("a", 1_000_000_001, at(2001)), Some(500_000_000));
        assert_eq!(rates.rate("a", 0, at(4000)), Some(0));
    }
}
