//! A disk that fills up and empties again.

use std::{fs, path::Path, time::Duration};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use raft_store::{Config, Error, Member};

use crate::harness::{POLLS, count, put};

/// A small file system of its own, gone with the value.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Nothing where this user may not mount.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        match mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=400m")) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                println!("skipped: a file system cannot be mounted here: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            println!("{} stays mounted: {error}", self.path().display());
        }
    }
}

/// Puts until the outcome is the wanted one; what it was last otherwise.
async fn put_until(member: &Member, wanted: Option<Error>) -> Option<Error> {
    let mut last = None;
    for number in 0..POLLS {
        last = member.put(put(format!("{number}"), "x")).await.err();
        if last == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_only_and_only_while_it_is_full() {
    let Some(disk) = Disk::new() else { return };
    let member = Member::start(Config::embedded(disk.path().join("data"))).await.unwrap();
    member.put(put("before".into(), "x")).await.unwrap();
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; 200 << 20]).unwrap();
    assert_eq!(put_until(&member, Some(Error::NO_SPACE)).await, Some(Error::NO_SPACE));
    assert!(count(&member, false).await >= 1, "reads go on");
    let errors = member.status().await.unwrap().errors;
    assert!(errors.iter().any(|error| error.contains("NOSPACE")), "{errors:?}");
    fs::remove_file(filler).unwrap();
    assert_eq!(put_until(&member, None).await, None, "it recovers by itself");
    assert!(member.status().await.unwrap().errors.is_empty());
    member.shutdown().await;
}
