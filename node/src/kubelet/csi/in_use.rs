//! Volumes that the API knows to be in use here, which keeps them attached. One is staged only once that is told: a pod
//! that ends soon would have its volume detached before it is given back. Source: upstream's
//! `VerifyControllerAttachedVolume` and `MarkVolumesAsReportedInUse`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::vol_data::VolData;

/// A status is sent at once; an API that does not take it for this long is asked again with the pod's next try.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// What the node's status says of volumes.
#[derive(Default)]
pub struct InUse {
    told: watch::Sender<BTreeSet<String>>,
    wanted: Notify,
}

impl InUse {
    /// The API has these from now on.
    pub fn tell(&self, names: BTreeSet<String>) {
        self.told.send_replace(names);
    }

    /// Returns when a status should go out at once.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until the API has the volume.
    pub async fn wait_told(&self, name: &str) -> Result<(), String> {
        let mut told = self.told.subscribe();
        self.wanted.notify_one();
        let known = told.wait_for(|told| told.contains(name));
        match tokio::time::timeout(TOLD_WITHIN, known).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("volume {name} is not in the node's status yet")),
        }
    }
}

/// The name of a volume in the node's status.
pub fn unique_name(note: &VolData) -> String {
    format!("kubernetes.io/csi/{}^{}", note.driver_name, note.volume_handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_volume_waits_until_it_is_told() {
        let in_use = InUse::default();
        let told = async {
            in_use.wanted().await;
            in_use.tell(["a".to_owned()].into());
        };
        let (waited, ()) = tokio::join!(in_use.wait_told("a"), told);
        assert_eq!(waited, Ok(()));
        assert_eq!(in_use.wait_told("a").await, Ok(()), "told before");
        assert!(in_use.wait_told("b").await.is_err());
    }
}
