//! Which intervals hold a key: cost follows the matches, not the number of intervals.

use bytes::Bytes;

use crate::mvcc::keys::KeyRange;

/// Intervals added since the last rebuild are searched one by one; past this many the tree is rebuilt.
const RECENT_MAX: usize = 64;

struct Entry {
    range: KeyRange,
    upper: Option<Bytes>,
    id: u64,
}

/// A set of named intervals. Sorted by start, with a segment tree over the ends.
#[derive(Default)]
pub struct IntervalIndex {
    sorted: Vec<Entry>,
    /// Position in `sorted` whose end is the furthest, for each node of a binary tree over `sorted`.
    furthest: Vec<usize>,
    recent: Vec<Entry>,
    removed: usize,
}

/// An id no caller uses; marks an entry that was removed since the last rebuild.
const REMOVED: u64 = u64::MAX;

impl IntervalIndex {
    /// Adds an interval under a name.
    pub fn insert(&mut self, range: KeyRange, id: u64) {
        let upper = range.upper_bound();
        self.recent.push(Entry { range, upper, id });
        if self.recent.len() > RECENT_MAX.max(self.sorted.len() / 64) {
            self.rebuild();
        }
    }

    /// Removes the interval of that name.
    pub fn remove(&mut self, range: &KeyRange, id: u64) {
        if let Some(at) = self.recent.iter().position(|entry| entry.id == id) {
            self.recent.swap_remove(at);
            return;
        }
        let from = self.sorted.partition_point(|entry| entry.range.start < range.start);
        let same = self.sorted[from..].iter_mut().take_while(|entry| entry.range.start == range.start);
        if let Some(entry) = { same }.find(|entry| entry.id == id) {
            entry.id = REMOVED;
            self.removed += 1;
        }
        if self.removed > RECENT_MAX.max(self.sorted.len() / 2) {
            self.rebuild();
        }
    }

    /// Calls `found` with the name of every interval that holds `key`.
    pub fn stab(&self, key: &[u8], found: &mut dyn FnMut(u64)) {
        for entry in &self.recent {
            if entry.range.contains(key) {
                found(entry.id);
            }
        }
        let starting = self.sorted.partition_point(|entry| entry.range.start.as_ref() <= key);
        if starting > 0 {
            self.descend(1, 0, self.sorted.len(), starting, key, found);
        }
    }

    fn descend(
        &self,
        node: usize,
        low: usize,
        high: usize,
        starting: usize,
        key: &[u8],
        found: &mut dyn FnMut(u64),
    ) {
        let Some(furthest) = self.furthest.get(node).and_then(|at| self.sorted.get(*at)) else { return };
        if low >= starting || furthest.upper.as_ref().is_some_and(|upper| upper.as_ref() <= key) {
            return;
        }
        if high - low == 1 {
            if furthest.id != REMOVED {
                found(furthest.id);
            }
            return;
        }
        let middle = low + (high - low) / 2;
        self.descend(2 * node, low, middle, starting, key, found);
        self.descend(2 * node + 1, middle, high, starting, key, found);
    }

    fn rebuild(&mut self) {
        self.sorted.append(&mut self.recent);
        self.sorted.retain(|entry| entry.id != REMOVED);
        self.sorted.sort_by(|left, right| left.range.start.cmp(&right.range.start));
        self.removed = 0;
        self.furthest = vec![usize::MAX; 4 * self.sorted.len().max(1)];
        if !self.sorted.is_empty() {
            self.build(1, 0, self.sorted.len());
        }
    }

    fn build(&mut self, node: usize, low: usize, high: usize) -> usize {
        let furthest = if high - low == 1 {
            low
        } else {
            let middle = low + (high - low) / 2;
            let left = self.build(2 * node, low, middle);
            let right = self.build(2 * node + 1, middle, high);
            match (&self.sorted[left].upper, &self.sorted[right].upper) {
                (None, _) => left,
                (Some(_), None) => right,
                (Some(a), Some(b)) => {
                    if a >= b {
                        left
                    } else {
                        right
                    }
                }
            }
        };
        self.furthest[node] = furthest;
        furthest
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::mvcc::keys::End;

    #[test]
    fn agrees_with_a_plain_list_on_random_intervals() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut index = IntervalIndex::default();
        let mut list: Vec<(KeyRange, u64)> = Vec::new();
        let key = |n: u32| Bytes::from(format!("{n:03}"));
        for id in 0..3_000 {
            if !list.is_empty() && rng.random_bool(0.3) {
                let (range, gone) = list.swap_remove(rng.random_range(0..list.len()));
                index.remove(&range, gone);
            }
            let end = match rng.random_range(0..10) {
                0 => End::Unbounded,
                1..3 => End::Point,
                _ => End::Before(key(rng.random_range(0..500))),
            };
            let range = KeyRange { start: key(rng.random_range(0..500)), end };
            index.insert(range.clone(), id);
            list.push((range, id));
            let probe = key(rng.random_range(0..500));
            let mut found = Vec::new();
            index.stab(&probe, &mut |id| found.push(id));
            found.sort_unstable();
            let mut expected: Vec<u64> =
                list.iter().filter(|(range, _)| range.contains(&probe)).map(|(_, id)| *id).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "probe {probe:?} after {id} inserts");
        }
    }
}
