//! The runtime all controllers share. In reading order:
//!
//! - [`key`], [`clock`], [`queue`]: keys, time, and the queue that never runs a key twice at a time;
//! - [`gvr`], [`store`], [`stores`], [`informer`], [`trim`]: one cache and one watch per kind;
//! - [`plan`]: what a reconcile returns; [`controller`]: what a controller is;
//! - [`freshness`]: no run on a cache older than the key's own last write;
//! - [`executor`], [`worker`]: the shell that carries plans out;
//! - [`client`], [`discovery`], [`identity`]: the shell's requests, and as whom they are made;
//! - [`metrics`]: under upstream's names.

pub mod client;
pub mod clock;
pub mod controller;
pub mod discovery;
pub mod events;
pub mod executor;
pub mod freshness;
pub mod gvr;
pub mod identity;
pub mod informer;
pub mod key;
pub mod metrics;
pub mod plan;
pub mod queue;
pub mod store;
pub mod stores;
pub mod trim;
pub mod worker;

pub use controller::{Build, Controller, ReconcileError, Wiring};
pub use gvr::Gvr;
pub use key::Key;
pub use plan::{Action, Answer, Ask, Context, Failure, Note, Pace, Plan, Propagation, Verb};
pub use queue::Enqueue;
pub use store::{Change, Object, Store};
