//! Reading and writing small files that must be whole: written beside, synced, renamed.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{At, Result};

pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).at("read", path)
}

/// For keys, tokens and kubeconfigs: mode 0600.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    write(path, content, 0o600)
}

/// For certificates: mode 0644.
pub fn write_public(path: &Path, content: &[u8]) -> Result<()> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).at("create", parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(beside)
        .at("write", beside)?;
    file.write_all(content).at("write", beside)?;
    file.sync_all().at("sync", beside)?;
    std::fs::rename(beside, path).at("rename into place", path)
}
