//! Use over the window between two readings. Pure.

use std::collections::BTreeMap;

use super::parse::{ContainerKey, Sample, Scrape};

/// Readings closer together than this say too little about CPU.
pub const WINDOW_MIN_MILLIS: i64 = 500;

/// What something used between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The later reading, milliseconds since the epoch.
    pub at_millis: i64,
    /// Time between the readings, milliseconds.
    pub window_millis: i64,
    /// CPU, billionths.
    pub cpu_nano: u64,
    /// Memory at the later reading, bytes.
    pub memory_bytes: u64,
}

fn between(before: &Sample, after: &Sample) -> Option<Use> {
    let window_millis = after.at_millis - before.at_millis;
    // A restarted container counts from zero again: its next window tells.
    let same_run = before.start_millis == after.start_millis && after.cpu_nanos >= before.cpu_nanos;
    if window_millis < WINDOW_MIN_MILLIS || !same_run {
        return None;
    }
    let nanos = u128::from(after.cpu_nanos - before.cpu_nanos);
    let cpu = nanos * 1_000 / u128::from(window_millis.unsigned_abs());
    Some(Use {
        at_millis: after.at_millis,
        window_millis,
        cpu_nano: u64::try_from(cpu).unwrap_or(u64::MAX),
        memory_bytes: after.memory_bytes,
    })
}

#[derive(Clone, Debug, Default)]
struct Pair {
    before: Scrape,
    after: Scrape,
}

/// The last two readings of every node.
#[derive(Clone, Debug, Default)]
pub struct Windows(BTreeMap<String, Pair>);

impl Windows {
    /// Takes a reading. One that is too close to the last replaces nothing.
    pub fn note(&mut self, node: &str, scrape: Scrape) {
        let pair = self.0.entry(node.to_owned()).or_default();
        let at = |scrape: &Scrape| scrape.node.map_or(0, |sample| sample.at_millis);
        if at(&scrape) - at(&pair.after) < WINDOW_MIN_MILLIS {
            return;
        }
        pair.before = std::mem::replace(&mut pair.after, scrape);
    }

    /// Forgets nodes that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|node, _| is_there(node));
    }

    /// What a node used.
    pub fn node(&self, name: &str) -> Option<Use> {
        let pair = self.0.get(name)?;
        between(&pair.before.node?, &pair.after.node?)
    }

    /// What the containers of a pod on that node used; `None` until each of its running ones has a window.
    pub fn pod(&self, node: &str, namespace: &str, name: &str) -> Option<Vec<(String, Use)>> {
        let pair = self.0.get(node)?;
        let is_own = |key: &ContainerKey| key.0 == namespace && key.1 == name;
        let own = pair.after.containers.iter().filter(|(key, _)| is_own(key));
        let uses: Option<Vec<_>> = own
            .map(|(key, after)| {
                let used = between(pair.before.containers.get(key)?, after)?;
                Some((key.2.clone(), used))
            })
            .collect();
        uses.filter(|uses| !uses.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(at_millis: i64, cpu_nanos: u64, start_millis: i64) -> Scrape {
        let sample = Sample { at_millis, cpu_nanos, memory_bytes: 9, start_millis };
        let key = ("n".to_owned(), "p".to_owned(), "c".to_owned());
        Scrape { node: Some(sample), containers: BTreeMap::from([(key, sample)]) }
    }

    #[test]
    fn two_readings_make_a_window() {
        let mut windows = Windows::default();
        windows.note("a", scrape(10_000, 1_000_000_000, 1));
        assert_eq!(windows.node("a"), None);
        windows.note("a", scrape(10_100, 9_000_000_000, 1));
        assert_eq!(windows.node("a"), None, "too close");
        windows.note("a", scrape(12_000, 2_000_000_000, 1));
        let used = Use { at_millis: 12_000, window_millis: 2_000, cpu_nano: 500_000_000, memory_bytes: 9 };
        assert_eq!(windows.node("a"), Some(used));
        assert_eq!(windows.pod("a", "n", "p"), Some(vec![("c".to_owned(), used)]));
        assert_eq!(windows.pod("a", "n", "other"), None);
        // The container started anew.
        windows.note("a", scrape(14_000, 0, 13_000));
        assert_eq!(windows.pod("a", "n", "p"), None);
        windows.keep(|_| false);
        assert_eq!(windows.node("a"), None);
    }
}
