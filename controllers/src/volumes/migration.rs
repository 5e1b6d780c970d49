//! The built-in volume plugins whose work CSI drivers have taken over, and the annotation that says so.

use crate::meta::StringMap;

/// On a claim or a volume: the CSI driver that acts for the built-in plugin named elsewhere in it.
pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

/// Plugin and driver.
const DRIVERS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// The driver that acts for a plugin.
pub fn driver_of(plugin: &str) -> Option<&'static str> {
    DRIVERS.iter().find(|(have, _)| *have == plugin).map(|(_, driver)| *driver)
}

/// Corrects [`MIGRATED_TO`] for the provisioner named under one of `keys`. Returns whether anything changed.
pub fn correct(annotations: &mut StringMap, keys: &[&str]) -> bool {
    let Some(provisioner) = keys.iter().find_map(|key| annotations.get(*key)) else { return false };
    let wanted = driver_of(provisioner);
    if annotations.get(MIGRATED_TO).map(String::as_str) == wanted {
        return false;
    }
    match wanted {
        Some(driver) => annotations.insert(MIGRATED_TO.into(), driver.into()),
        None => annotations.remove(MIGRATED_TO),
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_follows_the_provisioner() {
        let map = |pairs: &[(&str, &str)]| -> StringMap {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let check = |before: &[(&str, &str)], after: &[(&str, &str)]| {
            let mut annotations = map(before);
            let changed = correct(&mut annotations, &["by"]);
            assert_eq!((&annotations, changed), (&map(after), before != after), "{before:?}");
        };
        check(&[("other", "x")], &[("other", "x")]);
        check(&[("by", "csi.example.com")], &[("by", "csi.example.com")]);
        check(&[("by", "csi.example.com"), (MIGRATED_TO, "old")], &[("by", "csi.example.com")]);
        check(
            &[("by", "kubernetes.io/gce-pd")],
            &[("by", "kubernetes.io/gce-pd"), (MIGRATED_TO, "pd.csi.storage.gke.io")],
        );
    }
}
