//! The command line: etcd's flags, environment and configuration file.

mod args;
mod check;
mod dashes;
pub mod duration;
mod file;
mod flags;
#[cfg(test)]
mod flags_test;
mod gates;
mod resolve;
#[cfg(test)]
mod resolve_test;
mod snapshot;

use std::sync::Arc;

pub use args::{Args, StoreCommand};
pub use dashes::double_dashes;
pub use resolve::parse_cluster;
pub use snapshot::SnapshotCommand;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, member::Member, member::SERVER_VERSION};

/// What the functions here fail with; prints well.
pub type CliError = Box<dyn std::error::Error + Send + Sync>;

/// What etcd's flags about the log say; nothing where they are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` filter.
    pub level: Option<String>,
    /// JSON, or text for people.
    pub is_json: Option<bool>,
}

impl Args {
    /// How to log, which must be known before anything else is looked at. What cannot be read here is told by
    /// [`Args::config`].
    pub fn log(&self) -> LogSettings {
        let settings = resolve::Settings::gather(self, |name| std::env::var(name).ok());
        settings.map(|settings| settings.log()).unwrap_or_default()
    }

    /// The configuration these flags, the environment and the file give.
    ///
    /// # Errors
    /// Names the flag and what is wrong with it.
    pub fn config(&self) -> Result<Config, String> {
        resolve::Settings::gather(self, |name| std::env::var(name).ok())?.config()
    }
}

/// Starts a member with its listeners in the background. Stop it with [`Member::shutdown`].
///
/// # Errors
/// A flag that cannot be used, or why the member did not start.
pub async fn start(args: Args) -> Result<Arc<Member>, CliError> {
    let config = args.config()?;
    Ok(Member::start(config).await?)
}

/// Serves until `shutdown`, or carries out a subcommand.
///
/// # Errors
/// A flag that cannot be used, why the member did not start, or what the subcommand failed with.
pub async fn run(args: Args, shutdown: CancellationToken) -> Result<(), CliError> {
    match &args.command {
        Some(StoreCommand::Snapshot(command)) => return snapshot::run(command).await,
        None if args.given.get("version").is_some_and(|value| value == "true") => {
            println!("etcd Version: {SERVER_VERSION} (quarterdeck {})", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        None => {}
    }
    if !args.given.contains_key("config-file") {
        args.check_environment(std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()))?;
    }
    // A member's memory is many small things that come and go: huge pages would hold twice as much of it resident.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    let member = start(args).await?;
    tracing::info!(member = format!("{:x}", member.id()), "ready to serve client requests");
    tokio::select! {
        () = shutdown.cancelled() => {}
        reason = member.failed() => {
            member.shutdown().await;
            return Err(format!("the store had to stop: {reason}").into());
        }
    }
    member.shutdown().await;
    Ok(())
}
