//! In-tree volume sources as the handles of the CSI drivers that took them over.
//!
//! Owns the form of each driver's handle. A source that the driver cannot take (an unmanaged Azure disk, a malformed
//! AWS volume name) is not translated and counts as written.

use crate::core::migration::{AWS_EBS, AZURE_DISK, CINDER, GCE_PD, Migrated, PORTWORX, Plugin};

use super::{convert, wire};

/// What Google's handles say of a project or zone that is not known.
const UNSPECIFIED: &str = "UNSPECIFIED";
const ZONE_LABELS: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];

fn migrated(plugin: &'static Plugin, handle: impl Into<Box<str>>) -> Option<Migrated> {
    Some(Migrated { plugin, handle: handle.into(), nodes: None })
}

/// An inline volume of a pod.
pub fn inline(volume: &wire::Volume) -> Option<Migrated> {
    if let Some(disk) = &volume.gce_persistent_disk {
        return migrated(&GCE_PD, google_handle(&disk.pd_name, ""));
    }
    shared(
        volume.aws_elastic_block_store.as_ref(),
        volume.azure_disk.as_ref(),
        volume.cinder.as_ref(),
        volume.portworx_volume.as_ref(),
    )
}

/// A persistent volume, with the driver's view of where it is.
pub fn persistent(volume: &wire::PersistentVolume) -> Option<Migrated> {
    let (spec, labels) = (&volume.spec, &volume.metadata.labels);
    let zones = ZONE_LABELS.iter().filter_map(|key| labels.get(*key)).find(|z| !z.is_empty());
    let found = match &spec.gce_persistent_disk {
        Some(disk) => migrated(&GCE_PD, google_handle(&disk.pd_name, zones.map_or("", |z| z))),
        None => shared(
            spec.aws_elastic_block_store.as_ref(),
            spec.azure_disk.as_ref(),
            spec.cinder.as_ref(),
            spec.portworx_volume.as_ref(),
        ),
    }?;
    let nodes = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref()).map(convert::node_selector);
    let nodes = found.plugin.topology(nodes.as_ref(), &convert::labels(labels));
    Some(Migrated { nodes, ..found })
}

/// The sources whose handle is the same inline and persistent.
fn shared(
    aws: Option<&wire::AwsDisk>,
    azure: Option<&wire::AzureDisk>,
    cinder: Option<&wire::VolumeId>,
    portworx: Option<&wire::VolumeId>,
) -> Option<Migrated> {
    if let Some(disk) = aws {
        return migrated(&AWS_EBS, amazon_handle(&disk.volume_id)?);
    }
    if let Some(disk) = azure {
        let managed = disk.kind.is_empty() || disk.kind.eq_ignore_ascii_case("managed");
        return managed.then(|| migrated(&AZURE_DISK, disk.uri.as_str())).flatten();
    }
    if let Some(volume) = cinder {
        return migrated(&CINDER, volume.volume_id.as_str());
    }
    portworx.and_then(|volume| migrated(&PORTWORX, volume.volume_id.as_str()))
}

/// The bare id out of `aws://zone/vol-…`.
fn amazon_handle(id: &str) -> Option<&str> {
    let Some(url) = id.strip_prefix("aws://") else { return Some(id) };
    let path = url.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    let rest = path.strip_prefix("vol-")?;
    rest.chars().all(|c| c.is_ascii_alphanumeric()).then_some(path)
}

/// Zonal, regional (several zones of one region), or unspecified.
fn google_handle(disk: &str, zones: &str) -> String {
    let zones: Vec<&str> = zones.split("__").collect();
    match zones.as_slice() {
        [""] | [] => format!("projects/{UNSPECIFIED}/zones/{UNSPECIFIED}/disks/{disk}"),
        [zone] => format!("projects/{UNSPECIFIED}/zones/{zone}/disks/{disk}"),
        [first, ..] => {
            let region = first.rsplit_once('-').map_or(*first, |(region, _)| region);
            format!("projects/{UNSPECIFIED}/regions/{region}/disks/{disk}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_the_drivers() {
        for (volume, expected) in [
            (r#"{"awsElasticBlockStore":{"volumeID":"aws://eu-1a/vol-0ab"}}"#, Some("vol-0ab")),
            (r#"{"awsElasticBlockStore":{"volumeID":"vol-1"}}"#, Some("vol-1")),
            (r#"{"awsElasticBlockStore":{"volumeID":"aws://eu-1a/disk"}}"#, None),
            (r#"{"azureDisk":{"diskURI":"/d","kind":"Managed"}}"#, Some("/d")),
            (r#"{"azureDisk":{"diskURI":"/d","kind":"Dedicated"}}"#, None),
            (r#"{"cinder":{"volumeID":"c"}}"#, Some("c")),
            (r#"{"portworxVolume":{"volumeID":"p"}}"#, Some("p")),
            (
                r#"{"gcePersistentDisk":{"pdName":"d"}}"#,
                Some("projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d"),
            ),
            (r#"{"emptyDir":{}}"#, None),
        ] {
            let parsed: wire::Volume = serde_json::from_str(volume).expect(volume);
            assert_eq!(inline(&parsed).map(|m| m.handle).as_deref(), expected, "{volume}");
        }
    }

    #[test]
    fn googles_handles_name_zone_or_region() {
        assert_eq!(google_handle("d", "us-east1-a"), "projects/UNSPECIFIED/zones/us-east1-a/disks/d");
        let regional = google_handle("d", "us-east1-a__us-east1-b");
        assert_eq!(regional, "projects/UNSPECIFIED/regions/us-east1/disks/d");
    }
}
