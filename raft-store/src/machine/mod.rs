//! The replicated state machine: commands in, answers and changes out.
//!
//! Applies log entries to the state database in batches: one RocksDB write carries the changes of many
//! commands and the applied index that covers them. Everything here is a function of the log, so every
//! member computes the same bytes. No clock but for lease deadlines, which are not replicated.

mod alarms;
mod apply;
mod auth_commands;
mod core;
mod records;

pub use alarms::Alarms;
pub use core::{Machine, Shared};
pub use records::{Records, put_cleaned};
