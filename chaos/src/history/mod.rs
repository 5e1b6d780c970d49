//! What clients did and what they were told: the only thing checkers believe.
//!
//! A history is a list of invocations and completions in the order of one clock. An operation that timed out may or
//! may not have happened, for ever: its completion is [`Outcome::Unknown`], and it stays concurrent with everything
//! after it. Written as JSON lines, and as EDN in Jepsen's form so that outside checkers can judge it.

mod edn;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// A client that has at most one operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process(pub u32);

/// Nanoseconds since the run began, by the monotonic clock of the machine that runs all clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

/// A register as it was seen: its value, absent if it was not there, and the revision that wrote it, zero then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub value: Option<i64>,
    pub mod_revision: i64,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub key: String,
    pub value: i64,
    pub mod_revision: i64,
}

/// One read or write inside a transaction, on lists or on registers; a read holds what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Micro {
    Append { key: String, value: i64 },
    Read { key: String, values: Option<Vec<i64>> },
    Put { key: String, value: i64 },
    Get { key: String, found: Option<Version> },
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Action {
    /// Reads a register.
    Read {
        key: String,
    },
    Write {
        key: String,
        value: i64,
    },
    /// Sets `new` if the value is `old`.
    Cas {
        key: String,
        old: i64,
        new: i64,
    },
    /// Adds an element to the one set.
    Add {
        value: i64,
    },
    /// Reads the whole set.
    ReadSet,
    /// A strictly serializable transaction over lists.
    Txn {
        micros: Vec<Micro>,
    },
    Transfer {
        from: u32,
        to: u32,
        amount: i64,
    },
    ReadAccounts,
    /// Grants a lease.
    Grant {
        lease: i64,
        ttl_secs: i64,
    },
    KeepAlive {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
    /// Takes a lock that nobody holds; it is held until released, or until the lease ends.
    Acquire {
        lock: String,
        lease: i64,
    },
    Release {
        lock: String,
        lease: i64,
    },
    ReadLock {
        lock: String,
    },
    /// Makes an object that is not there.
    Create {
        key: String,
        value: i64,
    },
    /// Reads an object and replaces exactly that version.
    Update {
        key: String,
        value: i64,
    },
    /// Reads an object and deletes exactly that version.
    Delete {
        key: String,
    },
    /// Lists all objects at one revision, page by page.
    List,
}

impl Action {
    /// Whether it makes a new revision where it succeeds.
    pub fn writes(&self) -> bool {
        match self {
            Action::Txn { micros } => {
                micros.iter().any(|micro| matches!(micro, Micro::Append { .. } | Micro::Put { .. }))
            }
            Action::Read { .. } | Action::ReadSet | Action::ReadAccounts => false,
            Action::Grant { .. } | Action::KeepAlive { .. } | Action::Revoke { .. } => false,
            Action::ReadLock { .. } | Action::List => false,
            Action::Write { .. } | Action::Cas { .. } | Action::Add { .. } | Action::Transfer { .. } => true,
            Action::Acquire { .. } | Action::Release { .. } => true,
            Action::Create { .. } | Action::Update { .. } | Action::Delete { .. } => true,
        }
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It happened. `revision` is the store's, where the answer had one.
    Ok { value: Value, revision: Option<i64> },
    /// It did not happen, surely.
    Fail { error: String },
    /// Nobody knows.
    Unknown { error: String },
}

/// What an operation returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "kebab-case")]
pub enum Value {
    None,
    Register(i64),
    Set(Vec<i64>),
    Micros(Vec<Micro>),
    #[serde(with = "accounts")]
    Accounts(BTreeMap<u32, i64>),
    /// Whether a lease lives.
    Alive(bool),
    /// The lease that holds a lock.
    Holder(Option<i64>),
    /// The revision of the version that was replaced; zero if there was none.
    Replaced(i64),
    Objects(Vec<Object>),
}

/// Accounts as JSON has them: its maps have text for keys, which serde does not turn back into numbers in a tagged value.
mod accounts {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(accounts: &BTreeMap<u32, i64>, to: S) -> Result<S::Ok, S::Error> {
        accounts.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u32, i64>, D::Error> {
        let texts = BTreeMap::<String, i64>::deserialize(from)?;
        let number = |text: String| text.parse().map_err(|_| D::Error::custom(format!("no account: {text}")));
        texts.into_iter().map(|(account, sum)| Ok((number(account)?, sum))).collect()
    }
}

/// One operation, from its invocation to what is known of its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub process: Process,
    pub invoked: Nanos,
    /// When the client was told; for an unknown outcome when it gave up waiting.
    pub completed: Nanos,
    pub action: Action,
    pub outcome: Outcome,
}

impl Operation {
    /// The end of the time in which the operation may take effect: none if nobody knows whether it did.
    pub fn ends(&self) -> Option<Nanos> {
        match self.outcome {
            Outcome::Unknown { .. } => None,
            Outcome::Ok { .. } | Outcome::Fail { .. } => Some(self.completed),
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok { .. })
    }
}

/// All operations of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub operations: Vec<Operation>,
}

impl History {
    pub fn write_json_lines(&self, to: &mut impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut *to, operation)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`History::write_json_lines`] wrote; the error names the line.
    pub fn read_json_lines(from: impl BufRead) -> io::Result<Self> {
        let mut operations = Vec::new();
        for (number, line) in from.lines().enumerate() {
            let operation = serde_json::from_str(&line?).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {error}", number + 1))
            })?;
            operations.push(operation);
        }
        Ok(History { operations })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One of each kind of outcome.
    pub fn sample() -> History {
        let operation = |process, invoked, completed, action, outcome| Operation {
            process: Process(process),
            invoked: Nanos(invoked),
            completed: Nanos(completed),
            action,
            outcome,
        };
        let ok = |value| Outcome::Ok { value, revision: Some(7) };
        let accounts = Value::Accounts(BTreeMap::from([(0, 90), (1, 110)]));
        let micros = vec![
            Micro::Append { key: "x".into(), value: 1 },
            Micro::Read { key: "x".into(), values: Some(vec![1, 2]) },
        ];
        History {
            operations: vec![
                operation(0, 1, 5, Action::Write { key: "k".into(), value: 3 }, ok(Value::None)),
                operation(1, 2, 4, Action::Read { key: "k".into() }, ok(Value::Register(3))),
                operation(2, 3, 9, Action::Add { value: 4 }, Outcome::Unknown { error: "timed out".into() }),
                operation(3, 6, 8, Action::Txn { micros: micros.clone() }, ok(Value::Micros(micros))),
                operation(2, 10, 11, Action::Add { value: 5 }, ok(Value::None)),
                operation(0, 12, 13, Action::ReadAccounts, ok(accounts)),
            ],
        }
    }

    #[test]
    fn json_lines_survive_the_round_trip() {
        let mut text = Vec::new();
        sample().write_json_lines(&mut text).expect("written");
        assert_eq!(History::read_json_lines(text.as_slice()).expect("read"), sample());
        let error = History::read_json_lines("{}".as_bytes()).expect_err("rubbish").to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
