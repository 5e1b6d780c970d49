//! Making a driver's volume ready for the machine before the first pod, and taking it back from pods and machine.
//!
//! A volume's note stays until all of that is done: whatever fails is tried again from it, also by the next agent.

use std::fs;
use std::path::{Path, PathBuf};

use proto::csi;
use proto::csi::node_service_capability::rpc::Type as Capability;

use super::driver::Driver;
use super::publish::{Job, sha256_hex};
use super::registry::Plugins;
use super::vol_data::{self, VolData};
use crate::kubelet::volumes::layout::Layout;
use crate::kubelet::volumes::mounts;
use crate::kubelet::volumes::source::Source;

impl Plugins {
    /// Stages a volume where the driver does; the path, empty where not.
    pub(super) async fn stage(&self, layout: &Layout, job: &Job<'_>) -> Result<String, String> {
        let inline = matches!(job.volume.source, Source::CsiInline(_));
        if inline || !job.driver.can(Capability::StageUnstageVolume) {
            return Ok(String::new());
        }
        let path = staging_path(layout, &job.driver.name, &job.volume_id);
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text = path.to_string_lossy().into_owned();
        let request = csi::NodeStageVolumeRequest {
            volume_id: job.volume_id.clone(),
            publish_context: job.publish_context.clone(),
            staging_target_path: text.clone(),
            volume_capability: Some(job.capability.clone()),
            secrets: job.stage_secrets.clone(),
            volume_context: job.context.clone(),
        };
        job.driver.stage(request).await?;
        Ok(text)
    }

    /// Takes back every volume of a pod, from the notes on disk. The error is a volume and why.
    pub async fn unpublish_all(&self, layout: &Layout, uid: &str) -> Result<(), (String, String)> {
        self.tokens.forget(uid);
        let notes = vol_data::of_pod(&layout.volumes(uid));
        for (dir, note) in notes.map_err(|e| (uid.to_owned(), e.to_string()))? {
            let done = self.take_back(layout, uid, &dir, &note).await;
            done.map_err(|text| (note.spec_vol_id.clone(), text))?;
        }
        Ok(())
    }

    async fn take_back(&self, layout: &Layout, uid: &str, dir: &Path, note: &VolData) -> Result<(), String> {
        let driver = self.driver(&note.driver_name)?;
        let _alone = self.alone_with(&note.driver_name, &note.volume_handle).await;
        let devices =
            layout.plugins().join("kubernetes.io/csi/volumeDevices/publish").join(&note.spec_vol_id);
        let block = devices.join(uid);
        let target = if block.exists() { block } else { dir.join("mount") };
        driver.unpublish(&note.volume_handle, &target.to_string_lossy()).await?;
        mounts::unmount(&target).map_err(|e| e.to_string())?;
        let io = |e: std::io::Error| format!("{}: {e}", dir.display());
        if target.is_dir() {
            fs::remove_dir(&target).map_err(io)?;
        } else if target.exists() {
            fs::remove_file(&target).map_err(io)?;
        }
        self.unstage(layout, dir, &driver, note).await?;
        // Other pods' devices may be in it: then it stays.
        let _ = fs::remove_dir(&devices);
        fs::remove_dir_all(dir).map_err(io)
    }

    /// Takes a volume back from the machine if it has no other note than the one in `dir`.
    async fn unstage(
        &self,
        layout: &Layout,
        dir: &Path,
        driver: &Driver,
        note: &VolData,
    ) -> Result<(), String> {
        let path = staging_path(layout, &driver.name, &note.volume_handle);
        if !driver.can(Capability::StageUnstageVolume) || !path.exists() {
            return Ok(());
        }
        let same = |n: &VolData| n.driver_name == note.driver_name && n.volume_handle == note.volume_handle;
        let notes = vol_data::of_all(&layout.pods()).map_err(|e| e.to_string())?;
        if notes.iter().any(|(other, n)| other != dir && same(n)) {
            return Ok(());
        }
        driver.unstage(&note.volume_handle, &path.to_string_lossy()).await?;
        mounts::unmount(&path).map_err(|e| e.to_string())?;
        if path.exists() {
            fs::remove_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        // Upstream's agent has notes here: where it was before, the folder stays.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// Where the machine has a volume.
pub(super) fn staging_path(layout: &Layout, driver: &str, volume_id: &str) -> PathBuf {
    layout.plugins().join("kubernetes.io/csi").join(driver).join(sha256_hex(volume_id)).join("globalmount")
}
