//! The note beside each published volume that lets an agent that knows nothing else release it again. The file
//! and its keys are upstream's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::whole_file;

const FILE: &str = "vol_data.json";

/// What must be known to release a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolData {
    /// The driver's name.
    pub driver_name: String,
    /// The driver's name of the volume.
    #[serde(rename = "volumeHandle")]
    pub volume_handle: String,
    /// The name in paths: the PV's or the volume's.
    #[serde(rename = "specVolID")]
    pub spec_vol_id: String,
    /// `Ephemeral` or `Persistent`.
    pub volume_lifecycle_mode: String,
    /// The node's name.
    pub node_name: String,
}

/// Writes the note into the volume's folder.
pub fn save(dir: &Path, data: &VolData) -> io::Result<()> {
    whole_file::replace(&dir.join(FILE), &serde_json::to_vec(data).map_err(io::Error::other)?)
}

/// Reads the note of a volume's folder.
pub fn load(dir: &Path) -> io::Result<VolData> {
    let bytes = fs::read(dir.join(FILE))?;
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

/// Every published volume of a pod: its folder and note.
pub fn of_pod(volumes_dir: &Path) -> Vec<(PathBuf, VolData)> {
    let Ok(entries) = fs::read_dir(volumes_dir.join("kubernetes.io~csi")) else { return vec![] };
    entries.flatten().filter_map(|e| Some((e.path(), load(&e.path()).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_survive() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path().join("kubernetes.io~csi/pv-1");
        let data = VolData { driver_name: "d".into(), volume_handle: "h".into(), ..Default::default() };
        save(&volume, &data).expect("saved");
        assert_eq!(of_pod(dir.path()), [(volume, data)]);
    }
}
