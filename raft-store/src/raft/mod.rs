//! Consensus: how openraft's interfaces meet our disk, our network and our state machine.
//!
//! Owns the log on disk, the byte formats of consensus records, and the peer connections. Invariants: an
//! entry is reported flushed only after the write-ahead log was synced; the applied index is written with
//! the data it covers. Knows nothing of what a command means.

pub mod codec;
pub mod haste;
pub mod heard;
pub mod log_cache;
pub mod log_store;
pub mod log_writer;
pub mod network;
#[cfg(test)]
mod network_test;
pub mod peers;
pub mod position;
pub mod reach;
pub mod receive;
pub mod service;
pub mod snapshot;
pub mod state_machine;
#[cfg(test)]
mod suite_test;
pub mod transfers;
pub mod types;
