//! List-append transactions are strictly serializable: no cycle of dependencies, real time included.
//!
//! After Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations" (2020). Every append
//! is unique, so a read of a list tells the order of its appends; from these orders follow write-write, write-read and
//! read-write dependencies, and from the clock the real-time ones. A cycle convicts. Appends that no read ever saw give
//! no edges: what was never observed cannot convict.

use std::collections::HashMap;

use super::Verdict;
use super::register::describe;
use crate::history::{Action, History, Micro, Operation, Outcome, Value};

/// Judges all transactions of the history.
pub fn check(history: &History) -> Verdict {
    let transactions: Vec<Transaction<'_>> = history.operations.iter().filter_map(Transaction::of).collect();
    let orders = match orders(&transactions) {
        Ok(orders) => orders,
        Err(verdict) => return verdict,
    };
    let writers = match writers(&transactions) {
        Ok(writers) => writers,
        Err(verdict) => return verdict,
    };
    if let Some(verdict) = aborted_reads(&transactions, history) {
        return verdict;
    }
    let mut graph = Graph { edges: vec![Vec::new(); transactions.len()] };
    dependencies(&transactions, &orders, &writers, &mut graph);
    real_time(&transactions, &mut graph);
    match graph.cycle() {
        None => Verdict::Valid,
        Some(cycle) => Verdict::Invalid {
            why: format!("{} transactions depend on each other in a circle", cycle.len()),
            evidence: cycle
                .iter()
                .map(|(at, why)| format!("{}\n    {why} the next", describe(transactions[*at].operation)))
                .collect(),
        },
    }
}

/// A transaction that may have happened, with what its reads saw.
struct Transaction<'a> {
    operation: &'a Operation,
    micros: &'a [Micro],
}

impl<'a> Transaction<'a> {
    fn of(operation: &'a Operation) -> Option<Self> {
        match (&operation.action, &operation.outcome) {
            (Action::Txn { .. }, Outcome::Ok { value: Value::Micros(micros), .. }) => {
                Some(Transaction { operation, micros })
            }
            (Action::Txn { micros }, Outcome::Unknown { .. }) => Some(Transaction { operation, micros }),
            _ => None,
        }
    }

    fn appends(&self) -> impl Iterator<Item = (&'a str, i64)> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Append { key, value } => Some((key.as_str(), *value)),
            Micro::Read { .. } => None,
        })
    }

    fn reads(&self) -> impl Iterator<Item = (&'a str, &'a [i64])> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Read { key, values: Some(values) } => Some((key.as_str(), values.as_slice())),
            _ => None,
        })
    }
}

/// Key to the longest list seen; all other reads of the key must be prefixes of it.
type Orders<'a> = HashMap<&'a str, &'a [i64]>;

fn orders<'a>(transactions: &[Transaction<'a>]) -> Result<Orders<'a>, Verdict> {
    let mut orders: Orders<'a> = HashMap::new();
    for transaction in transactions {
        for (key, seen) in transaction.reads() {
            let longest = orders.entry(key).or_insert(seen);
            let (short, long) = if seen.len() < longest.len() { (seen, *longest) } else { (*longest, seen) };
            if !long.starts_with(short) {
                let why = format!("two reads of {key:?} disagree on the order: {short:?} and {long:?}");
                return Err(Verdict::Invalid { why, evidence: vec![describe(transaction.operation)] });
            }
            *longest = long;
        }
    }
    for (key, order) in &orders {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let why = format!("{} stands twice in {key:?}: {order:?}", twice[0]);
            return Err(Verdict::Invalid { why, evidence: Vec::new() });
        }
    }
    Ok(orders)
}

/// (key, value) to the transaction that appended it.
type Writers<'a> = HashMap<(&'a str, i64), usize>;

fn writers<'a>(transactions: &[Transaction<'a>]) -> Result<Writers<'a>, Verdict> {
    let mut writers: Writers<'a> = HashMap::new();
    for (at, transaction) in transactions.iter().enumerate() {
        for append in transaction.appends() {
            if writers.insert(append, at).is_some() {
                let why = format!("the workload appended {} to {:?} twice; it must not", append.1, append.0);
                return Err(Verdict::Unknown { why });
            }
        }
    }
    Ok(writers)
}

/// Reads that saw an append whose transaction surely failed.
fn aborted_reads(transactions: &[Transaction<'_>], history: &History) -> Option<Verdict> {
    let mut failed: HashMap<(&str, i64), &Operation> = HashMap::new();
    for operation in &history.operations {
        let (Action::Txn { micros }, Outcome::Fail { .. }) = (&operation.action, &operation.outcome) else {
            continue;
        };
        for micro in micros {
            if let Micro::Append { key, value } = micro {
                failed.insert((key, *value), operation);
            }
        }
    }
    transactions.iter().find_map(|transaction| {
        let mut seen =
            transaction.reads().flat_map(|(key, values)| values.iter().map(move |value| (key, *value)));
        let (key, value) = seen.find(|append| failed.contains_key(append))?;
        Some(Verdict::Invalid {
            why: format!("{value} of {key:?} was read though its transaction failed"),
            evidence: vec![describe(failed[&(key, value)]), describe(transaction.operation)],
        })
    })
}

const WRITE_WRITE: &str = "appended before";
const WRITE_READ: &str = "was read by";
const READ_WRITE: &str = "did not yet see";
const REAL_TIME: &str = "ended before";

fn dependencies(
    transactions: &[Transaction<'_>],
    orders: &Orders<'_>,
    writers: &Writers<'_>,
    graph: &mut Graph,
) {
    for (key, order) in orders {
        let known: Vec<usize> =
            order.iter().filter_map(|value| writers.get(&(*key, *value)).copied()).collect();
        for pair in known.windows(2) {
            graph.add(pair[0], pair[1], WRITE_WRITE);
        }
    }
    for (at, transaction) in transactions.iter().enumerate() {
        for (key, seen) in transaction.reads() {
            if let Some(writer) = seen.last().and_then(|value| writers.get(&(key, *value))) {
                graph.add(*writer, at, WRITE_READ);
            }
            let next = orders.get(key).and_then(|order| order.get(seen.len()));
            if let Some(writer) = next.and_then(|value| writers.get(&(key, *value))) {
                graph.add(at, *writer, READ_WRITE);
            }
        }
    }
}

/// Each transaction follows those that ended before it began; edges from the last ones to end suffice, the rest follow.
fn real_time(transactions: &[Transaction<'_>], graph: &mut Graph) {
    let mut by_start: Vec<usize> = (0..transactions.len()).collect();
    by_start.sort_by_key(|&at| transactions[at].operation.invoked);
    let mut by_end: Vec<usize> =
        (0..transactions.len()).filter(|&at| transactions[at].operation.ends().is_some()).collect();
    by_end.sort_by_key(|&at| transactions[at].operation.completed);
    // Ended transactions that no other ended transaction follows yet.
    let mut frontier: Vec<usize> = Vec::new();
    let mut ended = by_end.into_iter().peekable();
    for at in by_start {
        let start = transactions[at].operation.invoked;
        while let Some(&done) = ended.peek().filter(|&&done| transactions[done].operation.completed < start) {
            let began = transactions[done].operation.invoked;
            frontier.retain(|&earlier| transactions[earlier].operation.completed >= began);
            frontier.push(done);
            ended.next();
        }
        for &done in &frontier {
            graph.add(done, at, REAL_TIME);
        }
    }
}

struct Graph {
    edges: Vec<Vec<(usize, &'static str)>>,
}

impl Graph {
    fn add(&mut self, from: usize, to: usize, why: &'static str) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// A shortest cycle through some node of a strongly connected component, with the reason of each step.
    fn cycle(&self) -> Option<Vec<(usize, &'static str)>> {
        let on_cycle = self.node_on_cycle()?;
        let mut came_from: HashMap<usize, (usize, &'static str)> = HashMap::new();
        let mut queue = std::collections::VecDeque::from([on_cycle]);
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
                    return Some(path);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Nanos, Process};

    /// `"a x1 | r x[1,2]"`: appends 1 to x, reads x as [1, 2].
    fn txn(invoked: u64, completed: u64, text: &str, known: bool) -> Operation {
        let micros: Vec<Micro> = text
            .split('|')
            .map(|part| {
                let (kind, rest) = part.trim().split_once(' ').expect("kind and key");
                let (key, rest) = rest.split_at(1);
                match kind {
                    "a" => Micro::Append { key: key.into(), value: rest.parse().expect("a number") },
                    _ => Micro::Read {
                        key: key.into(),
                        values: Some(serde_json::from_str(rest).expect("a list")),
                    },
                }
            })
            .collect();
        let outcome = match known {
            true => Outcome::Ok { value: Value::Micros(micros.clone()), revision: None },
            false => Outcome::Unknown { error: String::new() },
        };
        Operation {
            process: Process(0),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            action: Action::Txn { micros },
            outcome,
        }
    }

    #[test]
    fn planted_anomalies_are_convicted() {
        for (name, transactions, convicted_by) in [
            (
                "serial",
                vec![txn(0, 1, "a x1", true), txn(2, 3, "r x[1]|a x2", true), txn(4, 5, "r x[1,2]", true)],
                None,
            ),
            (
                "stale read",
                vec![txn(0, 1, "a x1", true), txn(2, 3, "r x[]", true), txn(4, 5, "r x[1]", true)],
                Some("circle"),
            ),
            (
                "write skew",
                vec![
                    txn(0, 9, "r x[]|a y1", true),
                    txn(0, 9, "r y[]|a x1", true),
                    txn(10, 11, "r x[1]|r y[1]", true),
                ],
                Some("circle"),
            ),
            (
                "lost update",
                vec![
                    txn(0, 9, "r x[]|a x1", true),
                    txn(0, 9, "r x[]|a x2", true),
                    txn(10, 11, "r x[1,2]", true),
                ],
                Some("circle"),
            ),
            ("fork", vec![txn(0, 9, "r x[1]", true), txn(0, 9, "r x[2]", true)], Some("disagree")),
            ("applied twice", vec![txn(0, 1, "a x1", true), txn(2, 3, "r x[1,1]", true)], Some("twice")),
            ("unknown, applied", vec![txn(0, 1, "a x1", false), txn(2, 3, "r x[1]", true)], None),
            (
                "unknown, applied late",
                vec![txn(0, 1, "a x1", false), txn(2, 3, "r x[]", true), txn(4, 5, "r x[1]", true)],
                None,
            ),
        ] {
            let verdict = check(&History { operations: transactions });
            match convicted_by {
                None => assert_eq!(verdict, Verdict::Valid, "{name}"),
                Some(part) => {
                    let Verdict::Invalid { why, .. } = &verdict else { panic!("{name}: {verdict}") };
                    assert!(why.contains(part), "{name}: {why}");
                }
            }
        }
    }
}
