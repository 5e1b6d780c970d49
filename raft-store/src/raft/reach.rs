//! How far the log once went, noted beside it: a log whose synced end was cut off looks whole, and a member that
//! started with it would have vouched for entries that it no longer has.
//!
//! The note follows every sync and is not synced itself: a process that dies loses nothing of it, and after a power
//! cut it is behind the log at worst, which says nothing wrong. It is never ahead: before entries are taken back it is
//! lowered, and that is synced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// In the folder of the log, where the database leaves alone what it does not know.
const NAME: &str = "REACH";
const MAGIC: [u8; 4] = *b"QDR1";
/// Magic, index, checksum of both.
const LEN: usize = 4 + 8 + 4;

/// The note of one log.
#[derive(Debug)]
pub struct Reach {
    file: File,
    index: u64,
}

impl Reach {
    /// Opens the note of the log in `dir`, making it where there is none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join(NAME))?;
        let mut bytes = [0; LEN];
        // One that is too short or damaged says nothing.
        let index = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes)).unwrap_or(0);
        Ok(Self { file, index })
    }

    /// The last index that was on disk, as far as the note knows.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Entries up to `index` are on disk. A note that cannot be written stays behind, which says nothing wrong.
    pub fn raise(&mut self, index: u64) {
        if index > self.index && self.file.write_all_at(&encode(index), 0).is_ok() {
            self.index = index;
        }
    }

    /// Entries behind `index` are about to be taken back.
    pub fn lower(&mut self, index: u64) -> io::Result<()> {
        if index < self.index {
            self.file.write_all_at(&encode(index), 0)?;
            self.file.sync_data()?;
            self.index = index;
        }
        Ok(())
    }
}

fn encode(index: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..12].copy_from_slice(&index.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; LEN]) -> Option<u64> {
    let index = u64::from_be_bytes(bytes[4..12].try_into().ok()?);
    (encode(index) == *bytes).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_outlives_its_process_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut reach = Reach::open(dir.path()).unwrap();
        assert_eq!(reach.index(), 0);
        reach.raise(7);
        reach.raise(5);
        assert_eq!(Reach::open(dir.path()).unwrap().index(), 7);
        reach.lower(9).unwrap();
        reach.lower(3).unwrap();
        assert_eq!(Reach::open(dir.path()).unwrap().index(), 3);
        for at in 0..LEN {
            let mut bytes = encode(3);
            bytes[at] ^= 1;
            std::fs::write(dir.path().join(NAME), bytes).unwrap();
            assert_eq!(Reach::open(dir.path()).unwrap().index(), 0, "byte {at}");
        }
        std::fs::write(dir.path().join(NAME), &encode(3)[..9]).unwrap();
        assert_eq!(Reach::open(dir.path()).unwrap().index(), 0);
    }
}
