//! The shell around the pods' state machines: one task a pod carries out what its machine asks for, a pool
//! routes desired state to the tasks, and a lister notices what changes in the runtime by itself.

pub mod context;

pub mod hooks;

pub mod start;

pub mod actions;

pub mod last_words;

pub mod status_sender;

pub mod pod_worker;

pub mod admission;

pub mod promises;

pub mod view;

pub mod pool;

pub mod pleg;

pub use context::Context;
pub use pool::{Pool, PoolEvent};
