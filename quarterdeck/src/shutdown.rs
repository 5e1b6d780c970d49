//! SIGINT and SIGTERM as one cancellation token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Result;

/// A token that is cancelled at the first SIGINT or SIGTERM. The second one ends the process at once, with the
/// status a shell gives to that signal.
pub fn on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            let status = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if cancelled.is_cancelled() {
                std::process::exit(status);
            }
            tracing::info!("stopping in order; a second signal stops at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
