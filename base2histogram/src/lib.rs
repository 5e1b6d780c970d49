//! Stands in for the crate of this name that openraft counts batch sizes with (`[patch.crates-io]` in the root).
//!
//! Version 0.2.3 of that crate computes tables for sixteen resolutions when the first histogram is made and keeps them
//! for ever: 25 MiB in every process that holds a store, of which openraft uses one table of 2 KiB. This one needs no
//! table. It offers what openraft 0.10 calls, with the resolution of powers of two; nothing of ours reads it. It can go
//! as soon as upstream makes its tables when they are asked for (it does not as of 0.2.3).

use std::{fmt, marker::PhantomData};

/// One bucket for 0 and one for each power of two.
const BUCKETS: usize = 65;

/// Counts of values by their highest bit. `T` is there because the original has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    label: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// No values yet.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), label: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] += count;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The lower end of the bucket in which the value of this rank (0 to 1) lies; 0 without values.
    pub fn percentile(&self, rank: f64) -> u64 {
        let wanted = (self.total() as f64 * rank).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    /// The usual ranks.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Values at the usual ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values there are.
    pub samples: u64,
    /// Rank 0.001.
    pub p0_1: u64,
    /// Rank 0.01.
    pub p1: u64,
    /// Rank 0.05.
    pub p5: u64,
    /// Rank 0.1.
    pub p10: u64,
    /// Rank 0.5.
    pub p50: u64,
    /// Rank 0.9.
    pub p90: u64,
    /// Rank 0.99.
    pub p99: u64,
    /// Rank 0.999.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}, P50: {}, P99: {}]", self.samples, self.p50, self.p99)
    }
}

/// Several histograms by name, one a line.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    /// An empty chart.
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// Adds a histogram.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_lie_in_their_buckets() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        for value in [0, 1, 1, 5, 6, 7, 100, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!(histogram.total(), 8);
        let cases = [(0.0, 0), (0.3, 1), (0.5, 4), (0.8, 64), (1.0, 1 << 63)];
        for (rank, expected) in cases {
            assert_eq!(histogram.percentile(rank), expected, "rank {rank}");
        }
    }
}
