//! One pod on this machine as a pure state machine: desired spec, observed runtime, probe results and time
//! go in; actions and the API status come out.
//!
//! Nothing here does IO, reads a clock or draws a random number, so every rule is tested by data in, data
//! out. Rules follow upstream's kubelet: the order of actions, back-off, phases, conditions and reasons are
//! what clients and tests compare.

pub mod spec;

pub mod observed;

pub mod backoff;

pub mod restart;

pub mod plan;

pub mod init_plan;

pub mod container_status;

pub mod phase;

pub mod conditions;

pub mod status;

pub mod qos;

pub mod terminate;

pub mod allocation;

pub mod checkpoint;

pub mod resize;

pub mod action;

pub mod machine;

mod machine_ending;

mod machine_reset;

mod machine_resize;

#[cfg(test)]
mod simulation;

pub use action::{Action, Inputs, Notice, Outcome, Output, Stop, Ticket};
pub use machine::Machine;
pub use observed::{Container, Observed, ProbeView, Sandbox, State};
