//! Multi-version key-value semantics as etcd has them, over the rows of `storage`.
//!
//! Owns what a range, put, delete and transaction mean, revisions and history. Every function is a pure
//! function of the rows it is given: no clock, no randomness, no knowledge of Raft, leases' time or clients.

pub mod check;
pub mod compact;
pub mod compare;
pub mod hash;
pub mod history;
pub mod keys;
#[cfg(test)]
mod model_test;
pub mod overlay;
pub mod pending;
pub mod pieces;
pub mod range;
pub mod source;
pub mod txn;
