//! Sets of completion indexes, kept as intervals and written as the status shows them: `0-3,5,7-9`.

use std::fmt;

/// Ordered, disjoint, non-adjacent closed intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads a status field; indexes at or above `completions` and unreadable parts are left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let Some(last_valid) = u32::try_from(completions).ok().and_then(|count| count.checked_sub(1)) else {
            return Self::default();
        };
        let mut found = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
                && first <= last_valid
                && first <= last
            {
                found.add_range(first, last.min(last_valid));
            }
        }
        found
    }

    /// Adds one index.
    pub fn add(&mut self, index: u32) {
        self.add_range(index, index);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        other.0.iter().for_each(|(first, last)| self.add_range(*first, *last));
    }

    fn add_range(&mut self, mut first: u32, mut last: u32) {
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|(start, _)| *start <= last.saturating_add(1));
        if from < to {
            first = first.min(self.0[from].0);
            last = last.max(self.0[to - 1].1);
        }
        self.0.splice(from..to.max(from), [(first, last)]);
    }

    /// Whether an index is in the set.
    pub fn has(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in the set.
    pub fn total(&self) -> i32 {
        let total: u64 = self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
        i32::try_from(total).unwrap_or(i32::MAX)
    }

    /// How many indexes are in both sets.
    pub fn overlap(&self, other: &Self) -> i32 {
        let mut both = 0;
        let (mut a, mut b) = (0, 0);
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            both += if first <= last { i64::from(last - first) + 1 } else { 0 };
            if x.1 < y.1 { a += 1 } else { b += 1 }
        }
        i32::try_from(both).unwrap_or(i32::MAX)
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub fn first_missing(&self, count: usize, completions: i32) -> Vec<u32> {
        let end = u32::try_from(completions).unwrap_or(0);
        let mut missing = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(end, end)]) {
            while next < first.min(end) && missing.len() < count {
                missing.push(next);
                next += 1;
            }
            next = next.max(last.saturating_add(1));
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn text_forms() {
        let cases = [
            ("0-3,5", 10, "0-3,5"),
            ("1,2", 10, "1,2"),
            ("1,2,3", 10, "1-3"),
            ("0-9", 5, "0-4"),
            ("x,7", 10, "7"),
            ("", 3, ""),
        ];
        for (text, completions, expected) in cases {
            assert_eq!(Indexes::parse(text, completions).to_string(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(list in prop::collection::vec(0u32..40, 0..60), other in prop::collection::vec(0u32..40, 0..60), count in 0usize..20) {
            let set: BTreeSet<u32> = list.iter().copied().collect();
            let second: BTreeSet<u32> = other.iter().copied().collect();
            let mut indexes = Indexes::default();
            list.iter().for_each(|index| indexes.add(*index));
            let mut others = Indexes::default();
            other.iter().for_each(|index| others.add(*index));
            prop_assert_eq!(indexes.total(), set.len() as i32);
            prop_assert!((0..41).all(|index| indexes.has(index) == set.contains(&index)));
            prop_assert_eq!(indexes.overlap(&others), set.intersection(&second).count() as i32);
            let missing: Vec<u32> = (0..30).filter(|index| !set.contains(index)).take(count).collect();
            prop_assert_eq!(indexes.first_missing(count, 30), missing);
            prop_assert_eq!(Indexes::parse(&indexes.to_string(), 40), indexes);
        }
    }
}
