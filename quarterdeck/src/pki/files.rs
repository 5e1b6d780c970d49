//! Reading and writing small files that must be whole: written beside, synced, renamed. What is written beside is a
//! file of our own with its mode from the start: one that somebody put there is removed, not written into.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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

/// Opens a new file that only its owner can read, in place of any that is there.
pub fn create_private(path: &Path) -> Result<File> {
    create(path, 0o600)
}

/// Everything this process makes from here on is for its owner alone, unless it is given another mode by name. For
/// processes that write the cluster's data: the store's files hold every Secret.
pub fn keep_to_owner() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

fn create(path: &Path, mode: u32) -> Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).at("remove the leftover", path);
        }
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).at("write", path)?;
    // Whatever the umask took away.
    file.set_permissions(Permissions::from_mode(mode)).at("write", path)?;
    Ok(file)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).at("create", parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let mut file = create(beside, mode)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .at("write", beside)
        .and_then(|()| std::fs::rename(beside, path).at("rename into place", path));
    if written.is_err() {
        // A full disk is not left fuller; the failure that is told is the first.
        let _ = std::fs::remove_file(beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_hold_whatever_lies_in_the_way() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, beside) = (dir.path().join("key"), dir.path().join("key.new"));
        let elsewhere = dir.path().join("elsewhere");
        let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        type Write = fn(&Path, &[u8]) -> Result<()>;
        for (write, expected) in [(write_private as Write, 0o600), (write_public as Write, 0o644)] {
            std::fs::write(&beside, "left over").expect("written");
            std::fs::set_permissions(&beside, Permissions::from_mode(0o666)).expect("a mode");
            write(&path, b"content").expect("written");
            assert_eq!((mode(&path), read_text(&path).expect("read").as_str()), (expected, "content"));
            std::os::unix::fs::symlink(&elsewhere, &beside).expect("a link");
            write(&path, b"again").expect("written");
            assert_eq!((mode(&path), read_text(&path).expect("read").as_str()), (expected, "again"));
            assert!(!elsewhere.exists() && !beside.exists(), "what lay in the way was written to");
        }
    }
}
