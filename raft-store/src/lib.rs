//! An etcd v3 store on openraft and RocksDB: server and library.
//!
//! As a library: [`Member::start`] with a [`Config`] gives a handle whose methods take and return etcd's own
//! messages (`proto::etcdserverpb`), with etcd's errors ([`Error`]), and no gRPC in between:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use proto::etcdserverpb::{PutRequest, WatchCreateRequest};
//!
//! let member = raft_store::Member::start(raft_store::Config::embedded("/var/lib/store")).await?;
//! let watch = member.watch(WatchCreateRequest { key: "a".into(), ..Default::default() }).await?;
//! member.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
//! assert!(matches!(watch.next().await, Some(raft_store::WatchUpdate::Events { .. })));
//! member.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! As a server: [`cli::run`], with etcd's flags.
//!
//! Read from the inside out: `mvcc`, `lease`, `auth` are pure; `storage` is RocksDB; `machine` applies commands;
//! `raft` replicates them; `watch` hands out changes; `member` ties all together; `server` and `cli` face outwards.

pub mod auth;
pub mod backup;
mod blocking;
pub mod cli;
mod config;
#[doc(hidden)]
pub mod decoders;
mod error;
mod lease;
mod machine;
mod member;
mod metrics;
mod mvcc;
mod network;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod raft;
mod server;
mod storage;
mod tls;
mod watch;

pub use config::{AutoCompaction, ClusterState, Config};
pub use error::Error;
pub use member::{Caller, Member, SERVER_VERSION, StartError};
pub use network::{Network, Transport};
pub use tls::{TlsError, TlsFiles, TlsPolicy};
pub use watch::{EventBatch, WatchEvent, WatchStream, WatchUpdate};
