//! Sub-paths of volumes, opened so that no link inside the volume, not even one that a container swaps at the
//! same moment, can lead outside it.
//!
//! The kernel resolves the path beneath the volume's own descriptor (`openat2` with `RESOLVE_BENEATH`); the
//! descriptor is then bind-mounted, so that what the container gets is what was checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::Mode;

use super::mounts;

fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: `open_how` is plain data for which zero is valid, and is filled in below.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC).unsigned_abs().into();
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: the pointers live through the call and the size is the structure's own.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            c_path.as_ptr(),
            std::ptr::from_ref(&how),
            size_of::<libc::open_how>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Opens `subpath` beneath `volume`, making missing folders with `mode` on the way.
pub fn open(volume: &Path, subpath: &str, mode: u32) -> io::Result<OwnedFd> {
    let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(volume)?;
    let relative = Path::new(subpath);
    if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        let text = format!("subPath {subpath:?} must be relative and stay in the volume");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match open_beneath(root.as_fd(), relative, libc::O_PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_dirs(&root, relative, mode),
        other => other,
    }
}

/// What is in the file at `path` beneath `volume`, if it is a plain one of at most `bytes_max`.
pub fn read(volume: &Path, path: &str, bytes_max: u64) -> io::Result<String> {
    let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(volume)?;
    // A pipe that somebody put there must hold nobody up.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let file = File::from(open_beneath(root.as_fd(), Path::new(path), flags)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > bytes_max {
        let text = format!("{path:?} is no plain file of at most {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    io::read_to_string(file.take(bytes_max))
}

fn make_dirs(root: &File, relative: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut path = PathBuf::new();
    let mut parent = root.as_fd().try_clone_to_owned()?;
    for component in relative.components() {
        let Component::Normal(name) = component else { continue };
        path.push(name);
        match nix::sys::stat::mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        parent = open_beneath(root.as_fd(), &path, libc::O_PATH)?;
    }
    Ok(parent)
}

/// Bind-mounts `subpath` of `volume` at `target`, once.
pub fn bind(volume: &Path, subpath: &str, target: &Path, mode: u32) -> io::Result<()> {
    if mounts::is_mount_point(target)? {
        return Ok(());
    }
    let opened = open(volume, subpath, mode)?;
    let handle = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(&handle)?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        OpenOptions::new().create(true).append(true).open(target)?;
    }
    mounts::bind(&handle, target, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_cannot_escape() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path().join("v");
        fs::create_dir(&volume).expect("made");
        fs::write(volume.join("f"), "x").expect("written");
        symlink("/etc", volume.join("abs")).expect("linked");
        symlink("../..", volume.join("up")).expect("linked");
        symlink("f", volume.join("inside")).expect("linked");
        for path in ["f", "inside", "new/deep", "."] {
            assert!(open(&volume, path, 0o750).is_ok(), "{path}");
        }
        for path in ["abs/passwd", "abs", "up/x", "../v", "/etc"] {
            assert!(open(&volume, path, 0o750).is_err(), "{path}");
        }
        assert!(volume.join("new/deep").is_dir());
        assert_eq!(read(&volume, "inside", 1).expect("text"), "x");
        for path in ["abs/passwd", "none", "new", "../v/f", "/etc/passwd"] {
            assert!(read(&volume, path, 100_000).is_err(), "{path}");
        }
        assert!(read(&volume, "f", 0).is_err(), "too long");
    }
}
