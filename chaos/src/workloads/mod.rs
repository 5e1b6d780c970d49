//! What clients do to the store, one file each, through a public etcd client.

mod append;
mod bank;
mod kubernetes;
mod lock;
mod register;
mod set;
pub mod watch;
mod write_read;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Error};
use rand::rngs::StdRng;
use tonic::Code;

use crate::checkers::{self, Verdict};
use crate::history::{Action, History, Operation, Outcome, Process};

/// The workloads by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    Register,
    Set,
    Append,
    WriteRead,
    Bank,
    Watch,
    Lock,
    Kubernetes,
}

impl WorkloadKind {
    pub const ALL: &[(&str, WorkloadKind)] = &[
        ("register", WorkloadKind::Register),
        ("set", WorkloadKind::Set),
        ("append", WorkloadKind::Append),
        ("write-read", WorkloadKind::WriteRead),
        ("bank", WorkloadKind::Bank),
        ("watch", WorkloadKind::Watch),
        ("lock", WorkloadKind::Lock),
        ("kubernetes", WorkloadKind::Kubernetes),
    ];

    /// The workload itself. `Watch` writes like `Register`, with watchers beside it.
    pub fn build(self) -> Box<dyn Workload> {
        match self {
            WorkloadKind::Register => Box::new(register::Registers::new(false)),
            WorkloadKind::Watch => Box::new(register::Registers::new(true)),
            WorkloadKind::Set => Box::new(set::Elements::default()),
            WorkloadKind::Append => Box::new(append::Lists::default()),
            WorkloadKind::WriteRead => Box::new(write_read::Transactions::default()),
            WorkloadKind::Bank => Box::new(bank::Accounts),
            WorkloadKind::Lock => Box::new(lock::Locks::default()),
            WorkloadKind::Kubernetes => Box::new(kubernetes::Objects::default()),
        }
    }
}

impl FromStr for WorkloadKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        WorkloadKind::ALL.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<&str> = WorkloadKind::ALL.iter().map(|(name, _)| *name).collect();
            format!("no workload is named {text:?}; choose from {}", names.join(", "))
        })
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = WorkloadKind::ALL.iter().find(|(_, kind)| kind == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

/// Chooses operations and carries them out. Shared by all client processes of a run.
#[async_trait]
pub trait Workload: Send + Sync {
    /// Before any fault.
    async fn set_up(&self, _client: &mut Client) -> Result<(), Error> {
        Ok(())
    }

    /// The next operation of a process.
    fn next(&self, process: Process, rng: &mut StdRng) -> Action;

    /// Carries it out. `Err` is classified by [`classify`]; a definite refusal is returned as an outcome.
    async fn apply(&self, client: &mut Client, action: &Action) -> Result<Outcome, Error>;

    /// Told after every operation of which nobody knows whether it happened: too many of them on one key make a search
    /// hopeless, so a workload may move on to other keys.
    fn lost_track(&self) {}

    /// Told of every operation, for workloads whose processes remember something.
    fn completed(&self, _operation: &Operation) {}

    /// The prefix that watchers follow beside it, where they do.
    fn watched(&self) -> Option<&'static str> {
        None
    }

    /// Revisions to keep, where history is compacted as the run goes.
    fn compacts(&self) -> Option<i64> {
        None
    }

    /// Whether every new revision is one of its operations'.
    fn writes_alone(&self) -> bool {
        self.watched().is_none()
    }

    /// How long one leader must have led after healing before the last reads.
    fn settle(&self) -> Duration {
        Duration::ZERO
    }

    /// Reads after healing, whose absence would let losses go unseen.
    fn last_reads(&self) -> Vec<Action>;

    fn judge(&self, history: &History) -> Vec<(&'static str, Verdict)>;
}

/// What an error says of whether the operation happened. Only what a server refused before doing anything is a definite
/// failure; all else may have happened.
pub fn classify(action: &Action, error: &Error) -> Outcome {
    let text = error.to_string();
    let refused = match error {
        Error::GRpcStatus(status) => {
            matches!(
                status.code(),
                Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::NotFound
            )
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => true,
        _ => false,
    };
    // Nothing was sent where no connection came to be.
    let refused = refused || text.contains("tcp connect error");
    match refused || is_read(action) {
        true => Outcome::Fail { error: text },
        false => Outcome::Unknown { error: text },
    }
}

fn is_read(action: &Action) -> bool {
    matches!(
        action,
        Action::Read { .. } | Action::ReadSet | Action::ReadAccounts | Action::ReadLock { .. } | Action::List
    )
}

/// The store's revision in an answer.
fn revision(header: Option<&etcd_client::ResponseHeader>) -> Option<i64> {
    header.map(etcd_client::ResponseHeader::revision)
}

/// A stored decimal number; what is not one is a corrupted value and convicts by never having been written.
fn number(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(i64::MAX)
}

/// Linearizability of registers, by the checker of the same name.
fn judge_registers(history: &History) -> Vec<(&'static str, Verdict)> {
    vec![("linearizable", checkers::register::check(history))]
}
