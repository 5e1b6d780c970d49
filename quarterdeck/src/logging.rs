//! Logs for people on a terminal, JSON elsewhere.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// Quiet unless asked for: the client library logs every refused connection as an error (callers that care say so
/// themselves), and the consensus library every heartbeat that a dead server does not answer.
const QUIET: &[(&str, &str)] =
    &[("kube_client", "kube_client::client::builder=off"), ("openraft", "openraft=error")];

/// Installs the process-wide subscriber. `level` is a `tracing` filter such as `info` or `info,raft_store=debug`; a
/// filter that does not parse falls back to `info` with a word about it.
pub fn start(format: LogFormat, level: &str) {
    let quiet = QUIET.iter().filter(|(target, _)| !level.contains(target)).map(|(_, directive)| *directive);
    let level = std::iter::once(level).chain(quiet).collect::<Vec<_>>().join(",");
    let (filter, complaint) = match EnvFilter::try_new(&level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let text = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if text {
        builder.compact().init();
    } else {
        builder.json().flatten_event(true).init();
    }
    if let Some(error) = complaint {
        tracing::warn!(%error, filter = level, "the log filter does not parse; logging at `info`");
    }
}
