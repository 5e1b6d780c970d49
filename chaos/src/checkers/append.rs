//! List-append transactions are strictly serializable: no cycle of dependencies, real time included.
//!
//! After Kingsbury and Alvaro, "Elle: inferring isolation anomalies from experimental observations" (2020). Every append
//! is unique, so a read of a list tells the order of its appends; from these orders follow write-write, write-read and
//! read-write dependencies, and from the clock the real-time ones. A cycle convicts. Appends that no read ever saw give
//! no edges: what was never observed cannot convict.

use std::collections::HashMap;

use super::Verdict;
use super::graph::{Graph, READ_WRITE, WRITE_READ, WRITE_WRITE};
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
    let mut graph = Graph::new(transactions.len());
    dependencies(&transactions, &orders, &writers, &mut graph);
    let operations: Vec<&Operation> = transactions.iter().map(|transaction| transaction.operation).collect();
    graph.add_real_time(&operations);
    graph.judge(&operations)
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
            _ => None,
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

    /// As many transactions as a run of two minutes has, nine at a time, which take effect in the order of their numbers.
    fn long_history() -> Vec<Operation> {
        let mut lists: Vec<Vec<i64>> = Vec::new();
        let transaction = |number: i64| {
            let (list, other) = (number / 150 * 3 + number % 3, number / 150 * 3 + number % 2);
            lists.resize_with((number / 150 * 3 + 3) as usize, Vec::new);
            lists[list as usize].push(number);
            let micros = vec![
                Micro::Append { key: format!("list/{list}"), value: number },
                Micro::Read { key: format!("list/{other}"), values: Some(lists[other as usize].clone()) },
            ];
            Operation {
                process: Process((number % 9) as u32),
                invoked: Nanos(number as u64 * 10),
                completed: Nanos(number as u64 * 10 + 85),
                action: Action::Txn { micros: micros.clone() },
                outcome: Outcome::Ok { value: Value::Micros(micros), revision: None },
            }
        };
        (0..25_000).map(transaction).collect()
    }

    #[test]
    fn one_stale_read_among_thousands_is_convicted() {
        let mut operations = long_history();
        assert_eq!(check(&History { operations: operations.clone() }), Verdict::Valid);
        // It no longer sees what was appended by those that ended long before it began.
        let Outcome::Ok { value: Value::Micros(micros), .. } = &mut operations[12_599].outcome else {
            panic!("it succeeded")
        };
        let Some(Micro::Read { values: Some(values), .. }) = micros.last_mut() else { panic!("it reads") };
        values.truncate(values.len() - 20);
        let verdict = check(&History { operations });
        let Verdict::Invalid { why, evidence } = &verdict else { panic!("{verdict}") };
        assert!(why.contains("circle"), "{why}");
        assert!(evidence.len() < 10, "{evidence:?}");
    }
}
