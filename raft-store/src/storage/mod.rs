//! The applied state on disk: one RocksDB per state generation, and immutable views of it.
//!
//! Invariants: rows change only through [`StateDb::commit`], whose batch carries the applied log index it
//! belongs to, and all column families are flushed together, so a crash at any instant leaves a state that
//! is exactly some applied index. The write-ahead log of this database is off: the Raft log is its log.
//! Knows nothing about requests; see `mvcc` and `machine` for what the rows mean.

mod columns;
mod key_counts;
mod state_db;
mod view;

pub use columns::Column;
pub use key_counts::KeyCounts;
pub use state_db::StateDb;
pub use view::View;
