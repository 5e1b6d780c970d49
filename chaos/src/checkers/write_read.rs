//! Transactions over registers are strictly serializable: no cycle of dependencies, real time included.
//!
//! Elle's `rw-register` (Kingsbury and Alvaro, 2020). Every written value is unique, so a read names its writer. The
//! order of a register's versions is the store's own claim, its mod_revisions; a wrong claim shows as a cycle, or as two
//! values of one version. Does not check registers that nobody read.

use std::collections::{BTreeMap, HashMap};

use super::Verdict;
use super::graph::{Graph, READ_WRITE, WRITE_READ, WRITE_WRITE};
use super::register::describe;
use crate::history::{Action, History, Micro, Operation, Outcome, Value, Version};

/// Judges all transactions of the history.
pub fn check(history: &History) -> Verdict {
    let transactions: Vec<Transaction<'_>> = history.operations.iter().filter_map(Transaction::of).collect();
    let writers = writers(&transactions);
    match versions(&transactions, &writers, history) {
        Err(verdict) => verdict,
        Ok(versions) => {
            let mut graph = Graph::new(transactions.len());
            for of_key in versions.values() {
                let order: Vec<usize> = of_key.values().copied().collect();
                for pair in order.windows(2) {
                    graph.add(pair[0], pair[1], WRITE_WRITE);
                }
            }
            for (at, transaction) in transactions.iter().enumerate() {
                for (key, version) in transaction.outer_reads() {
                    let Some(of_key) = versions.get(key) else { continue };
                    if let Some(writer) = of_key.get(&version.mod_revision) {
                        graph.add(*writer, at, WRITE_READ);
                    }
                    if let Some((_, next)) = of_key.range(version.mod_revision + 1..).next() {
                        graph.add(at, *next, READ_WRITE);
                    }
                }
            }
            let operations: Vec<&Operation> =
                transactions.iter().map(|transaction| transaction.operation).collect();
            graph.add_real_time(&operations);
            graph.judge(&operations)
        }
    }
}

/// A transaction that may have happened, with what its reads saw.
struct Transaction<'a> {
    operation: &'a Operation,
    micros: &'a [Micro],
    revision: Option<i64>,
}

impl<'a> Transaction<'a> {
    fn of(operation: &'a Operation) -> Option<Self> {
        match (&operation.action, &operation.outcome) {
            (Action::Txn { .. }, Outcome::Ok { value: Value::Micros(micros), revision }) => {
                Some(Transaction { operation, micros, revision: *revision })
            }
            (Action::Txn { micros }, Outcome::Unknown { .. }) => {
                Some(Transaction { operation, micros, revision: None })
            }
            _ => None,
        }
    }

    fn writes(&self) -> impl Iterator<Item = (&'a str, i64)> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Put { key, value } => Some((key.as_str(), *value)),
            _ => None,
        })
    }

    fn reads(&self) -> impl Iterator<Item = (&'a str, Version)> {
        self.micros.iter().filter_map(|micro| match micro {
            Micro::Get { key, found: Some(found) } => Some((key.as_str(), *found)),
            _ => None,
        })
    }

    /// Reads of what others wrote.
    fn outer_reads(&self) -> impl Iterator<Item = (&'a str, Version)> {
        let own: Vec<(&str, i64)> = self.writes().collect();
        self.reads()
            .filter(move |(key, version)| !version.value.is_some_and(|value| own.contains(&(key, value))))
    }
}

/// (key, value) to the transaction that wrote it.
type Writers<'a> = HashMap<(&'a str, i64), usize>;

fn writers<'a>(transactions: &[Transaction<'a>]) -> Writers<'a> {
    let mut writers = Writers::new();
    for (at, transaction) in transactions.iter().enumerate() {
        writers.extend(transaction.writes().map(|write| (write, at)));
    }
    writers
}

/// Key to its versions, by revision, each with the transaction that wrote it.
type Versions<'a> = HashMap<&'a str, BTreeMap<i64, usize>>;

fn versions<'a>(
    transactions: &[Transaction<'a>],
    writers: &Writers<'a>,
    history: &History,
) -> Result<Versions<'a>, Verdict> {
    let mut versions = Versions::new();
    let mut enter = |key: &'a str, revision: i64, writer: usize, witness: &Operation| match versions
        .entry(key)
        .or_default()
        .insert(revision, writer)
    {
        Some(other) if other != writer => Err(Verdict::Invalid {
            why: format!("revision {revision} of {key:?} has two writers"),
            evidence: [transactions[other].operation, transactions[writer].operation, witness]
                .map(describe)
                .to_vec(),
        }),
        _ => Ok(()),
    };
    for (at, transaction) in transactions.iter().enumerate() {
        let Some(revision) = transaction.revision else { continue };
        for (key, _) in transaction.writes() {
            enter(key, revision, at, transaction.operation)?;
        }
    }
    for transaction in transactions {
        for (key, version) in transaction.reads() {
            let Some(value) = version.value else { continue };
            match writers.get(&(key, value)) {
                Some(writer) => enter(key, version.mod_revision, *writer, transaction.operation)?,
                None => return Err(from_nowhere(key, value, transaction.operation, history)),
            }
        }
    }
    Ok(versions)
}

fn from_nowhere(key: &str, value: i64, reader: &Operation, history: &History) -> Verdict {
    let put = Micro::Put { key: key.to_owned(), value };
    let refused = history
        .operations
        .iter()
        .find(|operation| matches!(&operation.action, Action::Txn { micros } if micros.contains(&put)));
    let why = match refused {
        Some(_) => format!("{value} of {key:?} was read though its transaction failed"),
        None => format!("{value} of {key:?} was read but never written"),
    };
    Verdict::Invalid { why, evidence: refused.into_iter().chain([reader]).map(describe).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Nanos, Process};

    /// `"w x1 | r y2@7"`: writes 1 to x, reads y as 2 of revision 7; `r y-@0` finds nothing.
    fn txn(invoked: u64, completed: u64, text: &str, outcome: Result<i64, bool>) -> Operation {
        let micros: Vec<Micro> = text
            .split('|')
            .map(|part| {
                let (kind, rest) = part.trim().split_once(' ').expect("kind and key");
                let (key, rest) = rest.split_at(1);
                let key = key.to_owned();
                match rest.split_once('@') {
                    Some((value, revision)) if kind == "r" => {
                        let mod_revision = revision.parse().expect("a revision");
                        Micro::Get { key, found: Some(Version { value: value.parse().ok(), mod_revision }) }
                    }
                    _ => Micro::Put { key, value: rest.parse().expect("a number") },
                }
            })
            .collect();
        Operation {
            process: Process(0),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            outcome: match outcome {
                Ok(revision) => {
                    Outcome::Ok { value: Value::Micros(micros.clone()), revision: Some(revision) }
                }
                Err(true) => Outcome::Unknown { error: String::new() },
                Err(false) => Outcome::Fail { error: String::new() },
            },
            action: Action::Txn { micros },
        }
    }

    #[test]
    fn planted_anomalies_are_convicted() {
        for (name, transactions, convicted_by) in [
            ("serial", vec![txn(0, 1, "w x1", Ok(2)), txn(2, 3, "r x1@2|w x2", Ok(3))], None),
            ("own write", vec![txn(0, 1, "w x1|r x1@2", Ok(2))], None),
            (
                "nothing there, though written",
                vec![txn(0, 1, "w x1", Ok(2)), txn(2, 3, "r x-@0", Ok(2))],
                Some("circle"),
            ),
            (
                "stale read of what changed",
                vec![txn(0, 1, "w x1", Ok(2)), txn(2, 3, "w x2", Ok(3)), txn(4, 5, "r x1@2", Ok(3))],
                Some("circle"),
            ),
            (
                "write skew",
                vec![
                    txn(0, 1, "w x1|w y1", Ok(2)),
                    txn(2, 9, "r x1@2|w y2", Ok(3)),
                    txn(2, 9, "r y1@2|w x2", Ok(4)),
                ],
                Some("circle"),
            ),
            (
                "failed but there",
                vec![txn(0, 1, "w x1", Err(false)), txn(2, 3, "r x1@2", Ok(2))],
                Some("failed"),
            ),
            ("from nowhere", vec![txn(2, 3, "r x1@2", Ok(2))], Some("never written")),
            ("unknown, seen", vec![txn(0, 1, "w x1", Err(true)), txn(2, 3, "r x1@2", Ok(2))], None),
            (
                "one version, two values",
                vec![
                    txn(0, 9, "w x1", Err(true)),
                    txn(0, 9, "w x2", Err(true)),
                    txn(2, 3, "r x1@2", Ok(2)),
                    txn(4, 5, "r x2@2", Ok(2)),
                ],
                Some("two writers"),
            ),
        ] {
            let verdict = check(&History { operations: transactions });
            match (convicted_by, &verdict) {
                (None, Verdict::Valid) => {}
                (Some(part), Verdict::Invalid { why, .. }) => assert!(why.contains(part), "{name}: {why}"),
                _ => panic!("{name}: {verdict}"),
            }
        }
    }
}
