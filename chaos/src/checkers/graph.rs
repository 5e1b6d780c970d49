//! Dependencies between transactions, and the circles in them that convict.
//!
//! Edges come from what transactions observed (by the checkers that know what an observation means) and from the clock:
//! a transaction follows every one that ended before it began.

use std::collections::{HashMap, VecDeque};

use super::Verdict;
use super::register::describe;
use crate::history::Operation;

/// Why a transaction must come before another.
pub const WRITE_WRITE: &str = "wrote before";
pub const WRITE_READ: &str = "was read by";
pub const READ_WRITE: &str = "did not yet see";
pub const REAL_TIME: &str = "ended before";

/// Transactions by index, and what must come before what.
pub struct Graph {
    edges: Vec<Vec<(usize, &'static str)>>,
}

impl Graph {
    pub fn new(transactions: usize) -> Self {
        Graph { edges: vec![Vec::new(); transactions] }
    }

    pub fn add(&mut self, from: usize, to: usize, why: &'static str) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// Each transaction follows those that ended before it began; edges from the last ones to end suffice, the rest
    /// follow.
    pub fn add_real_time(&mut self, operations: &[&Operation]) {
        let mut by_start: Vec<usize> = (0..operations.len()).collect();
        by_start.sort_by_key(|&at| operations[at].invoked);
        let mut by_end: Vec<usize> =
            (0..operations.len()).filter(|&at| operations[at].ends().is_some()).collect();
        by_end.sort_by_key(|&at| operations[at].completed);
        // Ended transactions that no other ended transaction follows yet.
        let mut frontier: Vec<usize> = Vec::new();
        let mut ended = by_end.into_iter().peekable();
        for at in by_start {
            let start = operations[at].invoked;
            while let Some(&done) = ended.peek().filter(|&&done| operations[done].completed < start) {
                let began = operations[done].invoked;
                frontier.retain(|&earlier| operations[earlier].completed >= began);
                frontier.push(done);
                ended.next();
            }
            for &done in &frontier {
                self.add(done, at, REAL_TIME);
            }
        }
    }

    /// Convicts if some transactions depend on each other in a circle, and shows a shortest one.
    pub fn judge(&self, operations: &[&Operation]) -> Verdict {
        match self.cycle() {
            None => Verdict::Valid,
            Some(cycle) => Verdict::Invalid {
                why: format!("{} transactions depend on each other in a circle", cycle.len()),
                evidence: cycle
                    .iter()
                    .map(|(at, why)| format!("{}\n    {why} the next", describe(operations[*at])))
                    .collect(),
            },
        }
    }

    /// A shortest cycle through some node of a strongly connected component, with the reason of each step.
    fn cycle(&self) -> Option<Vec<(usize, &'static str)>> {
        let on_cycle = self.node_on_cycle()?;
        let mut came_from: HashMap<usize, (usize, &'static str)> = HashMap::new();
        let mut queue = VecDeque::from([on_cycle]);
        while let Some(node) = queue.pop_front() {
            for &(next, why) in &self.edges[node] {
                if next == on_cycle {
                    let mut path = vec![(node, why)];
                    let mut at = node;
                    while at != on_cycle {
                        let (before, why) = came_from[&at];
                        path.push((before, why));
                        at = before;
                    }
                    path.reverse();
                    return Some(without_steps_between(&path));
                }
                came_from.entry(next).or_insert_with(|| {
                    queue.push_back(next);
                    (node, why)
                });
            }
        }
        None
    }

    /// Repeatedly takes away nodes without incoming edges (Kahn); from what is left, walking backwards ends on a cycle.
    fn node_on_cycle(&self) -> Option<usize> {
        let mut incoming = vec![0_usize; self.edges.len()];
        for (to, _) in self.edges.iter().flatten() {
            incoming[*to] += 1;
        }
        let mut free: Vec<usize> = (0..incoming.len()).filter(|&node| incoming[node] == 0).collect();
        while let Some(node) = free.pop() {
            for &(to, _) in &self.edges[node] {
                incoming[to] -= 1;
                if incoming[to] == 0 {
                    free.push(to);
                }
            }
        }
        let mut before = vec![None; incoming.len()];
        for (from, edges) in self.edges.iter().enumerate().filter(|(from, _)| incoming[*from] > 0) {
            for (to, _) in edges {
                before[*to] = Some(from);
            }
        }
        let mut node = (0..incoming.len()).find(|&node| incoming[node] > 0)?;
        for _ in 0..incoming.len() {
            node = before[node]?;
        }
        Some(node)
    }
}

/// Who ended before one that ended before a third ended before that one, too: of such steps in a row the first is kept.
fn without_steps_between(circle: &[(usize, &'static str)]) -> Vec<(usize, &'static str)> {
    let before = |at: usize| circle[(at + circle.len() - 1) % circle.len()].1;
    let is_needed = |at: &usize| circle[*at].1 != REAL_TIME || before(*at) != REAL_TIME;
    (0..circle.len()).filter(is_needed).map(|at| circle[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_time_are_joined_around_the_circle() {
        let circle = [
            (0, REAL_TIME),
            (1, WRITE_READ),
            (2, REAL_TIME),
            (3, REAL_TIME),
            (4, READ_WRITE),
            (5, REAL_TIME),
        ];
        let kept: Vec<usize> = without_steps_between(&circle).into_iter().map(|(at, _)| at).collect();
        assert_eq!(kept, [1, 2, 4, 5]);
    }
}
