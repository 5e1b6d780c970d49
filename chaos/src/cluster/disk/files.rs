//! The kernel's side of a failing disk: `/dev/fuse`, a thread that reads its requests, and what they mean to the store.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;

use super::DiskMood;
use super::store::{BLOCK_BYTES, Errno, Node, SIZE_BYTES, Store};
use super::wire::{self, Body, Head, Request, WRITE_BYTES_MAX};

/// Room for the largest request and its heads.
const BUFFER_BYTES: usize = WRITE_BYTES_MAX as usize + 4096;

/// A mounted disk. Unmounted when dropped; its thread ends with it.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    pub fn new(at: &Path, store: Arc<Mutex<Store>>) -> std::io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
        let options = format!(
            "fd={},rootmode=40000,user_id={user},group_id={group},default_permissions",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("chaos"), at, Some("fuse"), flags, Some(options.as_str()))?;
        let mounted = Mount { at: at.to_owned() };
        std::thread::Builder::new().name("chaos-disk".into()).spawn(move || serve(device, &store))?;
        Ok(mounted)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until they are gone.
        if let Err(errno) = umount2(&self.at, MntFlags::MNT_DETACH) {
            tracing::warn!(%errno, at = %self.at.display(), "a disk could not be unmounted");
        }
    }
}

/// Answers until the disk is unmounted.
fn serve(mut device: File, store: &Mutex<Store>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            // A request was taken back before it was read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => {
                continue;
            }
            Err(_) => return,
        };
        let Some((head, request)) = wire::parse(&buffer[..length]) else { continue };
        if request == Request::Forget {
            continue;
        }
        let outcome = answer(&mut store.lock(), head, request);
        // An answer to what was taken back meanwhile finds nobody.
        let _ = device.write(&Body::message(outcome, head.unique));
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn answer(store: &mut Store, head: Head, request: Request<'_>) -> Result<Body, Errno> {
    let node = head.node;
    let name = OsStr::from_bytes;
    match request {
        Request::Init { minor } => Ok(Body::init(minor)),
        Request::Lookup { name: wanted } => {
            let found = store.child(node, name(wanted))?;
            Ok(Body::entry(&store.attributes(found)?))
        }
        Request::GetAttributes => Ok(Body::attribute(&store.attributes(node)?)),
        Request::SetAttributes { mode, size } => {
            let changed = store.node(node)?;
            changed.mode = mode.map_or(changed.mode, |mode| mode & 0o7777);
            if let Some(size) = size {
                changed.resize(place(size));
            }
            Ok(Body::attribute(&store.attributes(node)?))
        }
        Request::MakeFolder { name: new, mode } => {
            let made = store.make(node, name(new), mode, true)?;
            Ok(Body::entry(&store.attributes(made)?))
        }
        Request::Remove { name: old } => store.remove(node, name(old)).map(|()| Body::default()),
        Request::Rename { name: old, folder, new_name } => {
            store.rename((node, name(old)), (folder, name(new_name))).map(|()| Body::default())
        }
        Request::Link { node: linked, name: new } => {
            store.link(linked, node, name(new))?;
            Ok(Body::entry(&store.attributes(linked)?))
        }
        Request::Open => {
            store.node(node)?.opened += 1;
            Ok(Body::opened())
        }
        Request::Create { name: new, mode } => {
            let made = store.make(node, name(new), mode, false)?;
            store.node(made)?.opened += 1;
            Ok(Body::created(&store.attributes(made)?))
        }
        Request::Release => {
            if let Ok(closed) = store.node(node) {
                closed.opened = closed.opened.saturating_sub(1);
            }
            store.forget_if_gone(node);
            Ok(Body::default())
        }
        Request::Read { .. } | Request::Write { .. } | Request::Sync | Request::Allocate { .. } => {
            content(store, node, request)
        }
        Request::ReadFolder { offset, size } => read_folder(store, node, offset, size as usize),
        Request::Statfs => {
            let block = u64::from(BLOCK_BYTES);
            Ok(Body::statfs(SIZE_BYTES / block, store.free_bytes() / block))
        }
        Request::Nothing => Ok(Body::default()),
        Request::Forget | Request::Unknown => wire::refusal(),
    }
}

/// What concerns the bytes of a file.
fn content(store: &mut Store, node: u64, request: Request<'_>) -> Result<Body, Errno> {
    match request {
        Request::Read { offset, size } => {
            let content = &store.node(node)?.content;
            let from = place(offset).min(content.len());
            let to = from.saturating_add(size as usize).min(content.len());
            Ok(Body::bytes(&content[from..to]))
        }
        Request::Write { offset, data } => {
            store.writable()?;
            store.node(node)?.write(place(offset), data);
            Ok(Body::written(data.len() as u32))
        }
        Request::Sync if store.mood == DiskMood::Failing => Err(libc::EIO),
        Request::Sync => store.node(node).map(Node::sync).map(|()| Body::default()),
        Request::Allocate { offset, length, mode: 0 } => {
            store.writable()?;
            let (file, end) = (store.node(node)?, place(offset.saturating_add(length)));
            if end > file.content.len() {
                file.resize(end);
            }
            Ok(Body::default())
        }
        Request::Allocate { mode, .. } if mode == libc::FALLOC_FL_KEEP_SIZE as u32 => {
            store.writable().map(|()| Body::default())
        }
        _ => Err(libc::EOPNOTSUPP),
    }
}

fn read_folder(store: &mut Store, node: u64, offset: u64, size: usize) -> Result<Body, Errno> {
    let entries = store.folder(node)?.clone();
    let mut body = Body::default();
    for (at, (name, child)) in entries.iter().enumerate().skip(place(offset)) {
        let is_folder = store.attributes(*child)?.is_folder;
        if !body.add_entry(size, *child, at as u64 + 1, is_folder, name.as_bytes()) {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Needs root and `/dev/fuse`; the mount is in a namespace of this thread's own.
    #[test]
    fn a_mounted_disk_is_a_disk_that_can_fail() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (root, store) = (folder.path().to_owned(), Arc::new(Mutex::new(Store::new())));
        let mounted = Mount::new(&root, store.clone()).expect("mounted");
        std::fs::create_dir(root.join("d")).expect("a folder");
        let path = root.join("d/f");
        let file = File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
        file.write_all_at(&[1; 300_000], 0).expect("written");
        file.sync_all().expect("synced");
        file.write_all_at(&[2; 10], 299_995).expect("written");
        std::fs::rename(&path, root.join("d/g")).expect("renamed");
        std::fs::hard_link(root.join("d/g"), root.join("h")).expect("linked");
        let names: Vec<_> =
            std::fs::read_dir(&root).expect("read").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["d", "h"]);
        store.lock().mood = DiskMood::Failing;
        assert!(file.write_all_at(&[3], 0).is_err());
        assert!(file.sync_all().is_err());
        store.lock().mood = DiskMood::Full;
        let full = file.write_all_at(&[3], 0).expect_err("full");
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        store.lock().mood = DiskMood::Well;
        drop(file);
        let lost: u64 = store.lock().nodes.values_mut().map(Node::drop_unsynced).sum();
        assert!(lost > 0);
        assert_eq!(std::fs::read(root.join("h")).expect("read"), vec![1; 300_000]);
        drop(mounted);
        assert!(!path.exists());
    }
}
