//! Volumes that the API knows to be in use here, which keeps them attached. One is staged only once that is told: a pod
//! that ends soon would have its volume detached before it is given back. Source: upstream's
//! `VerifyControllerAttachedVolume` and `MarkVolumesAsReportedInUse`.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::vol_data::{self, VolData};
use crate::kubelet::volumes::layout::Layout;

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

/// What the node's status says: the volumes that notes on disk speak of. Whether their pods are known does not matter: an
/// agent that has just started knows none, and what it has mounted must not be detached.
pub fn on_disk(layout: &Layout) -> io::Result<Vec<String>> {
    let notes = vol_data::of_all(&layout.pods())?.into_iter().map(|(_, note)| note);
    let names: BTreeSet<String> = notes
        .filter(|note| note.volume_lifecycle_mode == "Persistent")
        .map(|note| unique_name(&note))
        .collect();
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_disk_is_in_use() {
        let dir = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(dir.path());
        for (pod, handle, mode) in
            [("one", "a", "Persistent"), ("two", "a", "Persistent"), ("two", "b", "Ephemeral")]
        {
            let note = VolData {
                driver_name: "d".into(),
                volume_handle: handle.into(),
                volume_lifecycle_mode: mode.into(),
                ..Default::default()
            };
            let folder = layout.volume(pod, "kubernetes.io/csi", handle);
            vol_data::save(&folder, &note).expect("saved");
        }
        assert_eq!(on_disk(&layout).expect("listed"), ["kubernetes.io/csi/d^a"]);
    }

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
