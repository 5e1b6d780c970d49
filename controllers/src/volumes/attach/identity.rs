//! As whom a CSI driver knows a persistent volume: driver and handle, also of volumes whose built-in plugin a driver has
//! taken over. The driver's attacher translates the rest of such a volume itself.
//!
//! Not here: built-in sources that stand in a pod itself; a claim is needed for those.

use k8s_openapi::api::core::v1::PersistentVolume;

use super::super::migration::driver_of;

/// The older label wins, as upstream has it.
const ZONE: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
/// Between the zones of a volume that is in several.
const ZONES_DELIMITER: &str = "__";
/// In a handle, for what the volume does not say.
const UNSPECIFIED: &str = "UNSPECIFIED";

/// A volume as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub driver: String,
    pub handle: String,
}

/// The volume's identity; none for kinds that no driver attaches.
pub fn of(volume: &PersistentVolume) -> Option<Identity> {
    let spec = volume.spec.as_ref()?;
    if let Some(csi) = &spec.csi {
        return Some(Identity { driver: csi.driver.clone(), handle: csi.volume_handle.clone() });
    }
    let (plugin, handle) = if let Some(disk) = &spec.aws_elastic_block_store {
        ("kubernetes.io/aws-ebs", last_part(&disk.volume_id).to_owned())
    } else if let Some(disk) = &spec.gce_persistent_disk {
        ("kubernetes.io/gce-pd", google_handle(volume, &disk.pd_name))
    } else if let Some(disk) = &spec.azure_disk {
        ("kubernetes.io/azure-disk", disk.disk_uri.clone())
    } else if let Some(disk) = &spec.cinder {
        ("kubernetes.io/cinder", disk.volume_id.clone())
    } else if let Some(disk) = &spec.portworx_volume {
        ("kubernetes.io/portworx-volume", disk.volume_id.clone())
    } else if let Some(disk) = &spec.vsphere_volume {
        ("kubernetes.io/vsphere-volume", disk.volume_path.clone())
    } else {
        return None;
    };
    Some(Identity { driver: driver_of(plugin)?.to_owned(), handle })
}

/// `aws://zone/vol-1` and `vol-1` are the same volume.
fn last_part(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(_, last)| last)
}

fn google_handle(volume: &PersistentVolume, disk: &str) -> String {
    let labels = volume.metadata.labels.as_ref();
    let zones = ZONE.iter().find_map(|key| labels?.get(*key)).map_or(UNSPECIFIED, String::as_str);
    match zones.split_once(ZONES_DELIMITER) {
        None => format!("projects/{UNSPECIFIED}/zones/{zones}/disks/{disk}"),
        Some((first, _)) => {
            let region = first.rsplit_once('-').map_or(first, |(region, _)| region);
            format!("projects/{UNSPECIFIED}/regions/{region}/disks/{disk}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn built_in_sources_are_known_to_their_drivers() {
        let check = |zone: Option<&str>, source: Value, expected: Option<(&str, &str)>| {
            let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone}));
            let object = json!({"metadata": {"name": "v", "labels": labels}, "spec": source});
            let volume: PersistentVolume = serde_json::from_value(object).expect("a volume");
            let expected = expected
                .map(|(driver, handle)| Identity { driver: driver.to_owned(), handle: handle.to_owned() });
            assert_eq!(of(&volume), expected, "{source}");
        };
        check(None, json!({"csi": {"driver": "d", "volumeHandle": "h"}}), Some(("d", "h")));
        check(None, json!({"hostPath": {"path": "/x"}}), None);
        let ebs = |id: &str| json!({"awsElasticBlockStore": {"volumeID": id}});
        check(None, ebs("vol-1"), Some(("ebs.csi.aws.com", "vol-1")));
        check(None, ebs("aws://us-east-1a/vol-1"), Some(("ebs.csi.aws.com", "vol-1")));
        let pd = json!({"gcePersistentDisk": {"pdName": "p"}});
        let google = "pd.csi.storage.gke.io";
        check(None, pd.clone(), Some((google, "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/p")));
        check(Some("eu-1-b"), pd.clone(), Some((google, "projects/UNSPECIFIED/zones/eu-1-b/disks/p")));
        check(Some("eu-1-b__eu-1-c"), pd, Some((google, "projects/UNSPECIFIED/regions/eu-1/disks/p")));
        let azure = json!({"azureDisk": {"diskName": "n", "diskURI": "/subscriptions/s/d"}});
        check(None, azure, Some(("disk.csi.azure.com", "/subscriptions/s/d")));
        check(None, json!({"cinder": {"volumeID": "c"}}), Some(("cinder.csi.openstack.org", "c")));
        check(None, json!({"portworxVolume": {"volumeID": "w"}}), Some(("pxd.portworx.com", "w")));
        let vsphere = json!({"vsphereVolume": {"volumePath": "[ds] a.vmdk"}});
        check(None, vsphere, Some(("csi.vsphere.vmware.com", "[ds] a.vmdk")));
    }
}
