//! The few mount calls the volumes need, and the machine's mount table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Every mount point at or under `root`, deepest first: the order in which they can be unmounted.
pub fn under(root: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|p| p.starts_with(root)).collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(points)
}

fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// The table writes blanks and the like as octal escapes.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        match octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// True if something is mounted exactly there.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mount_points(&table).any(|p| p == path))
}

/// Mounts memory as a file system. `size_bytes` limits it.
pub fn tmpfs(target: &Path, size_bytes: Option<u64>) -> io::Result<()> {
    let options = size_bytes.map(|size| format!("size={size}"));
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), options.as_deref())?;
    Ok(())
}

/// Mounts large pages as a file system.
pub fn hugetlbfs(target: &Path, page_size: Option<&str>) -> io::Result<()> {
    let options = page_size.map(|size| format!("pagesize={size}"));
    mount(Some("nodev"), target, Some("hugetlbfs"), MsFlags::empty(), options.as_deref())?;
    Ok(())
}

/// Makes `source` visible at `target`, with what is mounted below it.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Unmounts; nothing mounted there counts as done.
pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_escaped_mount_points() {
        let table = "22 1 0:21 / /a\\040b rw - tmpfs tmpfs rw\n23 1 0:22 / /c rw - proc proc rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/a b"), PathBuf::from("/c")]);
    }
}
