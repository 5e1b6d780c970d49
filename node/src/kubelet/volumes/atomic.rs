//! Replaces the files of a volume all at once: a reader sees the old set or the new one, never a mixture.
//!
//! The files live in a folder with a new name each time; `..data` is a link to it that is renamed over the old
//! one, and every visible name is a link through `..data`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

use super::payload::{File, Payload};

const DATA_LINK: &str = "..data";
const DATA_LINK_NEW: &str = "..data_tmp";

/// Writes the payload. True if anything changed. `group` owns the files where given; `stamp` names the new
/// folder and must differ from call to call.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let old = fs::read_link(dir.join(DATA_LINK)).ok();
    if old.as_ref().is_some_and(|old| is_current(&dir.join(old), payload)) {
        return Ok(false);
    }
    let fresh_name = format!("..{stamp}");
    let fresh = dir.join(&fresh_name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    let link = dir.join(DATA_LINK_NEW);
    let _ = fs::remove_file(&link);
    symlink(&fresh_name, &link)?;
    fs::rename(&link, dir.join(DATA_LINK))?;
    let visible: BTreeSet<&str> = payload.keys().map(|p| p.split('/').next().unwrap_or(p)).collect();
    for name in &visible {
        let target = format!("{DATA_LINK}/{name}");
        let path = dir.join(name);
        if fs::read_link(&path).is_ok_and(|t| t == Path::new(&target)) {
            continue;
        }
        symlink(target, path)?;
    }
    remove_stale(dir, &visible)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn check_path(path: &str) -> io::Result<()> {
    let parts = Path::new(path).components();
    let plain = parts.clone().all(|c| matches!(c, Component::Normal(_))) && parts.count() > 0;
    if plain && !path.starts_with("..") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?} in a volume")))
}

fn write_file(root: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
        fs::set_permissions(parent, Permissions::from_mode(0o755))?;
    }
    fs::write(&target, &file.data)?;
    if file.owner.is_some() || group.is_some() {
        chown(&target, file.owner, group)?;
    }
    // With a group of its own the file must be readable by it, as upstream's ownership pass does.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(&target, Permissions::from_mode(mode))
}

fn is_current(dir: &Path, payload: &Payload) -> bool {
    let mut found = 0;
    if !dir.is_dir() || !count_files(dir, &mut found) || found != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o777);
        fs::read(&path).is_ok_and(|data| data == file.data)
            && mode.is_ok_and(|m| m & file.mode & 0o777 == file.mode & 0o777)
    })
}

fn count_files(dir: &Path, count: &mut usize) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().all(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_files(&entry.path(), count),
        Ok(_) => {
            *count += 1;
            true
        }
        Err(_) => false,
    })
}

fn remove_stale(dir: &Path, visible: &BTreeSet<&str>) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !visible.contains(name) && entry.path().is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        files
            .iter()
            .map(|(path, data, mode)| {
                ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: *mode, owner: None })
            })
            .collect()
    }

    #[test]
    fn swaps_whole_sets() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = payload(&[("a", "1", 0o644), ("d/b", "2", 0o400)]);
        assert!(write(dir.path(), &first, None, "1").expect("written"));
        assert!(!write(dir.path(), &first, None, "2").expect("unchanged"));
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).expect("read"), "2");
        let second = payload(&[("a", "3", 0o644), ("c", "4", 0o644)]);
        assert!(write(dir.path(), &second, None, "3").expect("written"));
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .expect("listed")
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["..3", "..data", "a", "c"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("read"), "3");
        let mode = fs::metadata(dir.path().join("c")).expect("meta").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn refuses_paths_that_leave_the_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        for path in ["../x", "/x", "a/../../x", "..data", ""] {
            assert!(write(dir.path(), &payload(&[(path, "", 0o644)]), None, "1").is_err(), "{path}");
        }
    }
}
