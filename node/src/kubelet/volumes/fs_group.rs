//! Gives a volume to the pod's `fsGroup`: every file belongs to the group and is open to it, and new files in
//! its folders inherit the group.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

const RW_MASK: u32 = 0o660;
const RO_MASK: u32 = 0o440;
const EXEC_MASK: u32 = 0o110;
const SETGID: u32 = 0o2000;

/// As [`apply`], on a thread where nobody waits: a volume may hold millions of files.
pub async fn apply_aside(root: &Path, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let root = root.to_owned();
    let work = move || apply(&root, group, false, only_on_mismatch);
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Applies `group` to `root` and everything in it. With `only_on_mismatch` a root that is already right is
/// taken as proof that the rest is (`fsGroupChangePolicy: OnRootMismatch`).
pub fn apply(root: &Path, group: u32, read_only: bool, only_on_mismatch: bool) -> io::Result<()> {
    if only_on_mismatch && is_right(root, group, read_only)? {
        return Ok(());
    }
    walk(root, group, read_only)
}

fn wanted_bits(is_dir: bool, read_only: bool) -> u32 {
    let mask = if read_only { RO_MASK } else { RW_MASK };
    if is_dir { mask | EXEC_MASK | SETGID } else { mask }
}

fn is_right(root: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let meta = fs::metadata(root)?;
    let bits = wanted_bits(true, read_only);
    Ok(meta.gid() == group && meta.permissions().mode() & bits == bits)
}

fn walk(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() | wanted_bits(meta.is_dir(), read_only);
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_files_to_the_group() {
        let dir = tempfile::tempdir().expect("a folder");
        let gid = fs::metadata(dir.path()).expect("meta").gid();
        fs::create_dir(dir.path().join("d")).expect("made");
        fs::write(dir.path().join("d/f"), "").expect("written");
        fs::set_permissions(dir.path().join("d/f"), Permissions::from_mode(0o600)).expect("set");
        apply(dir.path(), gid, false, false).expect("applied");
        let mode = |p: &str| fs::metadata(dir.path().join(p)).expect("meta").permissions().mode() & 0o7777;
        assert_eq!(mode("d/f"), 0o660);
        assert_eq!(mode("d") & 0o2770, 0o2770);
        assert!(is_right(dir.path(), gid, false).expect("read"));
    }
}
