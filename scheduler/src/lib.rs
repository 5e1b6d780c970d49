//! Which node runs which pod: kube-scheduler's decisions from columns and bitsets.
//!
//! [`run`] is the whole scheduler on a Kubernetes client, for use inside another process; [`cli`] is the same behind
//! kube-scheduler's flags. [`core`] decides without any IO and can be driven by hand: feed it
//! [`core::intake::Intake`]s, take [`core::scheduler::Command`]s.
//!
//! ```no_run
//! # async fn f(client: kube::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let settings = scheduler::config::Settings::defaults();
//! let options = scheduler::Options { identity: "host_1".into(), ..Default::default() };
//! scheduler::run(client, settings, options, tokio_util::sync::CancellationToken::new()).await?;
//! # Ok(()) }
//! ```

//! # Where it differs from kube-scheduler 1.36
//! - All nodes are examined unless `percentageOfNodesToScore` is set to a number between 1 and 99.
//! - Requests to the API are not limited in rate.
//! - ResourceClaims are not allocated: a pod that has some is refused, openly. Features that upstream has switched off by default (gang scheduling, `Lt`/`Gt` tolerations, capacity
//!   scoring) are absent.
//! - Extenders that keep no nodes of their own are sent the node list as the API has it at that moment.

pub mod cli;
pub mod config;
pub mod core;
mod inert_flags;
pub mod shell;

pub use shell::service::{Options, RunError, run};
