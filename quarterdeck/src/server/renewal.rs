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
            tracing::info!(?renewed, "certificates renewed");
        }
        // Looked at every time: an earlier renewal may have come no further than the certificates (a full disk).
        if init::write_kubeconfigs(&self.layout, &self.state)? {
            self.renewed.notify_one();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::authority;

    /// What stands in the way of a kubeconfig's new content is a folder of the name that it is written under first.
    #[test]
    fn kubeconfigs_follow_the_certificates_although_a_renewal_stopped_half_way() {
        let dir = tempfile::tempdir().expect("a folder");
        let (layout, state) = (Layout::new(dir.path()), State::new("s1"));
        for (name, common_name) in authority::NAMES {
            authority::create(&layout.pki(), name, common_name).expect("an authority");
        }
        let identity = ServerIdentity {
            name: "s1".into(),
            addresses: Vec::new(),
            extra_names: Vec::new(),
            service_address: "10.96.0.1".parse().expect("an address"),
            cluster_domain: "cluster.local".into(),
            leaf_life: Duration::from_secs(86_400),
        };
        let renewal = Renewal { layout: layout.clone(), state, identity, renewed: Arc::new(Notify::new()) };
        let obstacle = dir.path().join("scheduler.kubeconfig.new");
        std::fs::create_dir_all(obstacle.join("full")).expect("a folder");
        assert!(renewal.look().is_err(), "the kubeconfig cannot be written");
        assert!(!layout.kubeconfig("scheduler").exists());
        std::fs::remove_dir_all(&obstacle).expect("removed");
        renewal.look().expect("the rest of the renewal");
        let first = crate::pki::files::read_text(&layout.kubeconfig("scheduler")).expect("written");
        assert!(!init::write_kubeconfigs(&layout, &renewal.state).expect("nothing to write"));
        std::fs::remove_file(layout.pki_file("scheduler.crt")).expect("removed");
        renewal.look().expect("renewed");
        let second = crate::pki::files::read_text(&layout.kubeconfig("scheduler")).expect("written");
        assert_ne!(first, second, "the kubeconfig holds the certificate that was");
    }
}
