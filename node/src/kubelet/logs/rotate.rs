//! Keeps container logs from growing without end, and removes them.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file of one log: the current one and those rotated away (`0.log.<time>[.gz]`).
pub fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return vec![];
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    let mut rotated: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        .map(|e| e.path())
        .collect();
    // Names end in their time: the order of names is the order of age.
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

/// Removes a log with everything rotated away from it.
pub fn remove_all(log: &Path) {
    for file in files(log) {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %file.display(), "cannot remove a log");
        }
    }
}
