//! Certificates renew themselves: a daily look, and the listeners pick up the new files.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::layout::Layout;
use crate::pki::{ServerIdentity, leaves};

/// Renewal starts months before the end, so a day more or less does not matter.
const INTERVAL: Duration = Duration::from_secs(86_400);

/// Runs until cancelled.
pub async fn watch(layout: Layout, identity: ServerIdentity, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        match leaves::renew(&layout.pki(), &identity, SystemTime::now()) {
            Ok(renewed) if renewed.is_empty() => {}
            Ok(renewed) => tracing::info!(?renewed, "certificates renewed"),
            Err(failure) => tracing::error!(%failure, "certificates could not be renewed"),
        }
    }
}
