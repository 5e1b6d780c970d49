//! The sums of one series: by topology domain, with the least of them at hand.
//!
//! Owns domain totals and the histogram that answers "what is the minimum" for hard spread constraints, also for a
//! change that is only imagined. Invariant: the histogram holds one entry for each domain with an eligible node
//! (for each such node, where domains are single nodes).

use std::collections::BTreeMap;

/// The sums of one series.
#[derive(Debug, Default)]
pub struct Sums {
    /// By domain; not used where the series is local.
    totals: Vec<i64>,
    /// Eligible nodes by domain, for hard constraints.
    nodes: Vec<u32>,
    /// Domains (or nodes, where local) by value, for the minimum of hard constraints.
    histogram: BTreeMap<i64, u32>,
    /// Domains with an eligible node.
    domains: usize,
    /// Everything added up.
    pub(super) all: i64,
}

impl Sums {
    /// The value of a domain.
    pub fn total(&self, domain: u32) -> i64 {
        self.totals.get(domain as usize).copied().unwrap_or(0)
    }

    /// Everything added up over labelled nodes.
    pub fn all(&self) -> i64 {
        self.all
    }

    /// Domains that have an eligible node.
    pub fn domain_count(&self) -> usize {
        self.domains
    }

    /// The least value of all domains, with one of value `from` changed to `to` (equal: nothing changed).
    pub fn minimum(&self, from: i64, to: i64) -> Option<i64> {
        let mut values = self.histogram.iter();
        let (&least, &count) = values.next()?;
        if from == to {
            return Some(least);
        }
        let others = if least == from && count == 1 { values.next().map(|(v, _)| *v) } else { Some(least) };
        Some(others.map_or(to, |o| o.min(to)))
    }

    /// A node becomes eligible in a domain (or, without one, by itself).
    pub(super) fn node_joins(&mut self, domain: Option<u32>) {
        let first = match domain {
            None => true,
            Some(d) => {
                grow_to(&mut self.nodes, d);
                grow_to(&mut self.totals, d);
                self.nodes[d as usize] += 1;
                self.nodes[d as usize] == 1
            }
        };
        if first {
            self.domains += 1;
            *self.histogram.entry(domain.map_or(0, |d| self.totals[d as usize])).or_default() += 1;
        }
    }

    /// A node is no longer eligible.
    pub(super) fn node_leaves(&mut self, domain: Option<u32>) {
        let last = match domain {
            None => true,
            Some(d) => {
                self.nodes[d as usize] -= 1;
                self.nodes[d as usize] == 0
            }
        };
        if last {
            self.domains -= 1;
            self.drop_value(domain.map_or(0, |d| self.totals[d as usize]));
        }
    }

    /// Adds to a domain; a local hard series moves its node from zero to the value or back.
    pub(super) fn add(&mut self, domain: Option<u32>, delta: i64, hard: bool) {
        self.all += delta;
        match domain {
            None if hard && delta > 0 => self.move_value(0, delta),
            None if hard && delta < 0 => self.move_value(-delta, 0),
            None => {}
            Some(d) => {
                grow_to(&mut self.totals, d);
                let old = self.totals[d as usize];
                self.totals[d as usize] = old + delta;
                if hard {
                    self.move_value(old, old + delta);
                }
            }
        }
    }

    /// A domain's value changes.
    pub(super) fn move_value(&mut self, from: i64, to: i64) {
        if from != to {
            self.drop_value(from);
            *self.histogram.entry(to).or_default() += 1;
        }
    }

    fn drop_value(&mut self, value: i64) {
        if let Some(count) = self.histogram.get_mut(&value) {
            *count -= 1;
            if *count == 0 {
                self.histogram.remove(&value);
            }
        }
    }
}

fn grow_to<T: Default + Clone>(list: &mut Vec<T>, index: u32) {
    if list.len() <= index as usize {
        list.resize(index as usize + 1, T::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_follows_domains_that_come_change_and_go() {
        let mut sums = Sums::default();
        assert_eq!(sums.minimum(0, 0), None);
        for domain in 0..3 {
            sums.node_joins(Some(domain));
            sums.add(Some(domain), i64::from(domain) + 1, true);
        }
        assert_eq!(sums.minimum(0, 0), Some(1));
        assert_eq!(sums.minimum(1, 9), Some(2), "the only least domain grows in thought");
        assert_eq!(sums.minimum(3, 0), Some(0));
        sums.add(Some(0), -1, true);
        sums.node_leaves(Some(0));
        sums.add(Some(0), 0, true);
        assert_eq!((sums.minimum(0, 0), sums.domain_count(), sums.all()), (Some(2), 2, 5));
    }
}
