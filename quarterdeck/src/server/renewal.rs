//! Certificates renew themselves. Listeners pick up the new files; who holds a kubeconfig is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::init;
use super::layout::{Layout, State};
use crate::failure::Result;
use crate::pki::{ServerIdentity, leaves};

/// Looks at the certificates at least this often; renewal starts months before their end.
const INTERVAL_MAX: Duration = Duration::from_secs(86_400);
/// And this many times in a life, where that is shorter.
const LOOKS_A_LIFE: u32 = 20;

/// One server's certificates.
pub struct Renewal {
    pub layout: Layout,
    pub state: State,
    pub identity: ServerIdentity,
    /// Is notified once new kubeconfigs are in place.
    pub renewed: Arc<Notify>,
}

impl Renewal {
    /// Runs until cancelled.
    pub async fn watch(self, shutdown: CancellationToken) {
        let interval = INTERVAL_MAX.min(self.identity.leaf_life / LOOKS_A_LIFE);
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(failure) = self.look() {
                tracing::error!(%failure, "certificates could not be renewed");
            }
        }
    }

    fn look(&self) -> Result<()> {
        let renewed = leaves::renew(&self.layout.pki(), &self.identity, SystemTime::now())?;
        if !renewed.is_empty() {
            init::write_kubeconfigs(&self.layout, &self.state)?;
            tracing::info!(?renewed, "certificates renewed");
            self.renewed.notify_one();
        }
        Ok(())
    }
}
