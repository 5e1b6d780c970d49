//! A snapshot on its way in, kept over a broken connection so that it goes on where it stopped.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Instant,
};

use parking_lot::Mutex;
use proto::raftpb::{SnapshotBlock, SnapshotHeader};

use super::snapshot::{is_plain_name, locate};
use crate::metrics::DISK;

/// One snapshot, as far as it has come.
pub struct Incoming {
    /// What it is.
    pub header: SnapshotHeader,
    /// Where its files are.
    pub folder: PathBuf,
    received: u64,
}

/// Takes in one snapshot at a time.
pub struct Receiver {
    copies: PathBuf,
    incoming: Mutex<Option<Incoming>>,
}

impl Receiver {
    /// Writes under `copies`.
    pub fn new(copies: PathBuf) -> Self {
        Self { copies, incoming: Mutex::new(None) }
    }

    /// Takes up the snapshot named by `header`: what is there of it stays, anything else goes.
    pub fn begin(&self, header: SnapshotHeader) -> io::Result<u64> {
        let mut incoming = self.incoming.lock();
        if let Some(known) = incoming.as_mut()
            && known.header.id == header.id
            && known.header.files == header.files
        {
            known.header = header;
            return Ok(known.received);
        }
        if let Some(bad) = header.files.iter().find(|file| !is_plain_name(&file.name)) {
            return Err(io::Error::other(format!("a snapshot with the file name {:?}", bad.name)));
        }
        if let Some(old) = incoming.take() {
            std::fs::remove_dir_all(&old.folder)?;
        }
        let folder = self.copies.join(format!("in-{}", header.id));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        for file in &header.files {
            std::fs::File::create(folder.join(&file.name))?;
        }
        *incoming = Some(Incoming { header, folder, received: 0 });
        Ok(0)
    }

    /// Writes one block; `true` when it was the last.
    pub fn write(&self, block: &SnapshotBlock) -> io::Result<bool> {
        let mut incoming = self.incoming.lock();
        let Some(incoming) = incoming.as_mut() else {
            return Err(io::Error::other("a snapshot block without a snapshot"));
        };
        if block.offset != incoming.received || crc32fast::hash(&block.data) != block.crc {
            return Err(io::Error::other(format!(
                "a damaged or misplaced snapshot block at {} after {} bytes",
                block.offset, incoming.received
            )));
        }
        if !block.data.is_empty() {
            let (name, at, left) = locate(&incoming.header.files, block.offset)
                .ok_or_else(|| io::Error::other("a snapshot block behind the end"))?;
            if block.data.len() as u64 > left {
                return Err(io::Error::other("a snapshot block that crosses files"));
            }
            let mut file = std::fs::OpenOptions::new().append(true).open(incoming.folder.join(name))?;
            let there = file.metadata()?.len();
            if there < at {
                return Err(io::Error::other(format!("the snapshot file {name} is not as long as it was")));
            }
            if there > at {
                // A full disk took a part of the block only.
                file.set_len(at)?;
            }
            file.write_all(&block.data)?;
            if block.data.len() as u64 == left {
                let started = Instant::now();
                file.sync_all()?;
                DISK.copy_sync.observe(started.elapsed().as_secs_f64());
            }
            incoming.received += block.data.len() as u64;
        }
        let size: u64 = incoming.header.files.iter().map(|file| file.size).sum();
        if block.last && incoming.received != size {
            return Err(io::Error::other(format!(
                "a snapshot of {} instead of {size} bytes",
                incoming.received
            )));
        }
        Ok(block.last)
    }

    /// The snapshot, once all of it is there.
    pub fn take_whole(&self) -> Option<Incoming> {
        self.incoming.lock().take_if(|incoming| {
            incoming.received == incoming.header.files.iter().map(|file| file.size).sum::<u64>()
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::raftpb::SnapshotFile;

    use super::*;

    fn header(id: &str) -> SnapshotHeader {
        let file = |name: &str, size| SnapshotFile { name: name.into(), size };
        SnapshotHeader { id: id.into(), files: vec![file("a", 4), file("b", 3)], ..Default::default() }
    }

    fn block(offset: u64, data: &'static [u8], last: bool) -> SnapshotBlock {
        SnapshotBlock { offset, crc: crc32fast::hash(data), data: data.into(), last, ..Default::default() }
    }

    #[test]
    fn an_interrupted_snapshot_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::new(dir.path().to_path_buf());
        assert_eq!(receiver.begin(header("one")).unwrap(), 0);
        assert!(!receiver.write(&block(0, b"abcd", false)).unwrap());
        assert!(!receiver.write(&block(4, b"ef", false)).unwrap());
        assert!(receiver.take_whole().is_none(), "the connection broke before the end");
        assert_eq!(receiver.begin(header("one")).unwrap(), 6, "nothing is sent twice");
        assert!(receiver.write(&block(0, b"abcd", false)).is_err(), "nor may it be");
        // What was written of a block when the disk was full.
        std::fs::write(dir.path().join("in-one/b"), b"efx").unwrap();
        assert!(receiver.write(&block(6, b"g", true)).unwrap());
        let whole = receiver.take_whole().unwrap();
        assert_eq!(std::fs::read(whole.folder.join("a")).unwrap(), b"abcd");
        assert_eq!(std::fs::read(whole.folder.join("b")).unwrap(), b"efg");
    }

    #[test]
    fn another_snapshot_begins_anew_and_bad_blocks_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let receiver = Receiver::new(dir.path().to_path_buf());
        assert!(receiver.write(&block(0, b"ab", false)).is_err(), "no snapshot has begun");
        receiver.begin(header("one")).unwrap();
        receiver.write(&block(0, b"abcd", false)).unwrap();
        assert_eq!(receiver.begin(header("two")).unwrap(), 0);
        assert!(!dir.path().join("in-one").exists(), "the old one is gone");
        let flipped = SnapshotBlock { data: b"abcx".as_slice().into(), ..block(0, b"abcd", false) };
        assert!(receiver.write(&flipped).is_err());
        assert!(receiver.write(&block(0, b"abcdef", false)).is_err(), "across two files");
        assert!(receiver.write(&block(0, b"ab", true)).is_err(), "the end before the end");
        let escaping =
            SnapshotHeader { files: vec![SnapshotFile { name: "../x".into(), size: 1 }], ..header("three") };
        assert!(receiver.begin(escaping).is_err());
    }
}
