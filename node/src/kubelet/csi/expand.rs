//! Growing the file system of a volume whose disk has grown. The controller side grows the disk and notes the new size
//! in the PV; this side lets the driver follow and notes the end in the claim's status.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use proto::csi;
use proto::csi::node_service_capability::rpc::Type as Capability;
use serde_json::{Value, json};

use super::capability::capability;
use super::registry::Plugins;
use super::staging::staging_path;
use crate::kubelet::pod::spec;
use crate::kubelet::quantity;
use crate::kubelet::volumes::container_mounts::Prepared;
use crate::kubelet::volumes::layout::Layout;
use crate::kubelet::volumes::source::Source;

/// The condition that asks this side to act.
const PENDING: &str = "FileSystemResizePending";

/// The size the volume should grow to, bytes; `None` if it has it.
pub fn wanted(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> Option<i64> {
    let size = |list: Option<&std::collections::BTreeMap<_, _>>| {
        list.and_then(|l| l.get("storage")).map(quantity::units).unwrap_or(0)
    };
    let has = size(claim.status.as_ref().and_then(|s| s.capacity.as_ref()));
    let disk = size(pv.spec.as_ref().and_then(|s| s.capacity.as_ref()));
    (disk > has && has > 0).then_some(disk)
}

/// What the claim's status becomes once the file system has grown.
fn done(claim: &PersistentVolumeClaim, pv: &PersistentVolume) -> Value {
    let conditions = claim.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let rest: Vec<_> =
        conditions.into_iter().filter(|c| c.type_ != PENDING && c.type_ != "Resizing").collect();
    let capacity = pv.spec.as_ref().and_then(|s| s.capacity.clone()).unwrap_or_default();
    json!({"status": {"capacity": capacity, "conditions": rest, "allocatedResourceStatuses": null}})
}

impl Plugins {
    /// Grows a published volume if its disk has grown; true if it did. The error is shown in an event.
    pub async fn expand(&self, layout: &Layout, pod: &Pod, prepared: &Prepared) -> Result<bool, String> {
        let (Source::CsiPersistent(source), Some(claim_name)) =
            (&prepared.volume.source, &prepared.volume.claim)
        else {
            return Ok(false);
        };
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), spec::namespace(pod));
        // The API may be away: the next look tells.
        let (Ok(claim), Ok(pv)) = (
            claims.get(claim_name).await,
            Api::<PersistentVolume>::all(self.client.clone()).get(&prepared.volume.dir_name).await,
        ) else {
            return Ok(false);
        };
        let Some(bytes) = wanted(&claim, &pv) else { return Ok(false) };
        let driver = self.driver(&source.driver)?;
        if driver.can(Capability::ExpandVolume) {
            let _alone = self.alone_with(&driver.name, &source.volume_handle).await;
            let fs_type = source.fs_type.clone().unwrap_or_default();
            let volume = &prepared.volume;
            let staged = driver.can(Capability::StageUnstageVolume);
            let staging = staged.then(|| staging_path(layout, &driver.name, &source.volume_handle));
            driver
                .expand(csi::NodeExpandVolumeRequest {
                    volume_id: source.volume_handle.clone(),
                    volume_path: prepared.path.to_string_lossy().into_owned(),
                    capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
                    staging_target_path: staging
                        .map(|p| p.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    volume_capability: Some(capability(
                        &driver,
                        volume.block,
                        &fs_type,
                        &volume.mount_options,
                        &volume.access_modes,
                    )),
                    ..Default::default()
                })
                .await?;
        }
        let body = Patch::Merge(done(&claim, &pv));
        claims.patch_status(claim_name, &PatchParams::default(), &body).await.map_err(|e| e.to_string())?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(claim: Value, pv: &str, expected: Option<i64>) {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"status": claim})).expect("a claim");
        let pv: PersistentVolume =
            serde_json::from_value(json!({"spec": {"capacity": {"storage": pv}}})).expect("a volume");
        assert_eq!(wanted(&claim, &pv), expected);
    }

    #[test]
    fn only_a_grown_disk_is_followed() {
        check(json!({"capacity": {"storage": "1Gi"}}), "2Gi", Some(2 << 30));
        check(json!({"capacity": {"storage": "2Gi"}}), "2Gi", None);
        check(json!({}), "2Gi", None);
    }

    #[test]
    fn the_end_is_noted() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"status": {"conditions": [
            {"type": PENDING, "status": "True"}, {"type": "Other", "status": "True"}]}}))
        .expect("a claim");
        let pv = serde_json::from_value(json!({"spec": {"capacity": {"storage": "2Gi"}}})).expect("a volume");
        let status = &done(&claim, &pv)["status"];
        assert_eq!(status["capacity"]["storage"], "2Gi");
        assert_eq!(status["conditions"].as_array().map(Vec::len), Some(1));
    }
}
