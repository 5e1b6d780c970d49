//! Recording events: what happened to an object, for people (`kubectl describe`).
//!
//! [`Correlator`] decides, as client-go does: repeated events become a count, many similar ones become one, and an
//! object that floods is silenced. [`Recorder`] hands events to a task that writes them; it never blocks and drops
//! events rather than hold up its caller.

mod correlator;
mod recorder;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

pub use correlator::{Correlator, Write};
pub use recorder::Recorder;

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// The object it happened to.
    pub regarding: ObjectReference,
    pub event_type: EventType,
    /// One word in camel case, why.
    pub reason: String,
    /// What was done (`Scheduling`); may be empty.
    pub action: String,
    /// A sentence.
    pub message: String,
    pub at: Timestamp,
}
