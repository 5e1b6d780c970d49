//! Judges of histories. Each is pure, says where its rule comes from and what it does not check, and is tested on
//! planted violations.

pub mod append;
pub mod bank;
mod graph;
pub mod hashes;
pub mod lease;
pub mod liveness;
pub mod objects;
pub mod register;
pub mod revisions;
pub mod set;
pub mod watch;
pub mod wgl;
pub mod write_read;

use std::fmt;

/// What a checker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Valid,
    /// Convicted: what was violated, and the smallest sub-history found that shows it.
    Invalid {
        why: String,
        evidence: Vec<String>,
    },
    /// The search exceeded its budget; neither proven nor refuted.
    Unknown {
        why: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid => f.write_str("valid"),
            Verdict::Unknown { why } => write!(f, "unknown: {why}"),
            Verdict::Invalid { why, evidence } => {
                write!(f, "INVALID: {why}")?;
                evidence.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
        }
    }
}
