//! The service proxy: takes the place of kube-proxy, and enforces network policies for this machine's pods.
//!
//! [`core::Core`] decides (pure), [`run`] watches, applies and reports. The table is `inet quarterdeck-proxy`; nothing
//! else writes to it, and this module writes nowhere else in the packet filter. Rules stay when the process ends, so
//! that connections survive a restart of the agent.
//!
//! Reading order: `endpoints`, `arrange` and `rules` turn one service into table objects; `policy` does so for pods;
//! `core` keeps both up to date; `runner`, `first_table`, `health`, `service_health`, `conntrack` and `metrics` are the shell.

mod arrange;
pub mod cli;
mod config;
mod conntrack;
pub mod core;
mod endpoints;
mod first_table;
mod health;
pub mod http;
mod metrics;
mod options;
mod policy;
pub mod rules;
mod runner;
mod service_health;

pub use crate::network::nft::Nft;
pub use conntrack::Limits;
pub use options::{NEEDS, NodePortAddresses, Options};
pub use runner::{Error, TABLE, cleanup, run};
