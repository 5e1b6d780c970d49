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

/// Every published volume of a pod: its folder and note. A note that is there and cannot be read is an error: whoever took
/// that for no volume would have one detached that is in use.
pub fn of_pod(volumes_dir: &Path) -> io::Result<Vec<(PathBuf, VolData)>> {
    let mut found = Vec::new();
    for dir in entries(&volumes_dir.join("kubernetes.io~csi"))? {
        match load(&dir) {
            Ok(note) => found.push((dir, note)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))),
        }
    }
    Ok(found)
}

/// The notes of every pod that has something on disk, whether anybody still wants it or not.
pub fn of_all(pods_dir: &Path) -> io::Result<Vec<(PathBuf, VolData)>> {
    let mut found = Vec::new();
    for pod in entries(pods_dir)? {
        found.extend(of_pod(&pod.join("volumes"))?);
    }
    Ok(found)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(error) if is_absent(&error) => Ok(vec![]),
        list => list?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
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
        assert_eq!(of_pod(dir.path()).expect("listed"), [(volume.clone(), data)]);
        // A folder without a note holds nothing; a note that nobody understands may.
        fs::create_dir(dir.path().join("kubernetes.io~csi/pv-2")).expect("made");
        assert_eq!(of_pod(dir.path()).map(|found| found.len()).ok(), Some(1));
        fs::write(volume.join(FILE), "{").expect("written");
        assert!(of_pod(dir.path()).is_err());
        assert_eq!(of_pod(&dir.path().join("none")).map(|found| found.len()).ok(), Some(0));
    }

    #[test]
    fn pods_that_nobody_knows_have_volumes_too() {
        let dir = tempfile::tempdir().expect("a folder");
        for (pod, handle) in [("one", "h1"), ("two", "h2")] {
            let data = VolData { volume_handle: handle.into(), ..Default::default() };
            save(&dir.path().join(pod).join("volumes/kubernetes.io~csi/pv"), &data).expect("saved");
        }
        let mut handles: Vec<_> =
            of_all(dir.path()).expect("listed").into_iter().map(|(_, n)| n.volume_handle).collect();
        handles.sort();
        assert_eq!(handles, ["h1", "h2"]);
    }
}
