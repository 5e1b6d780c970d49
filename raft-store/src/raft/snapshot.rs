//! A copy of the applied state as a folder of files, and how its bytes are numbered for sending.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use proto::raftpb::SnapshotFile;

/// Bytes of one block on the wire.
pub const BLOCK_BYTES: usize = 1 << 20;

/// A folder with a consistent copy of the state. Removed from disk when the last handle goes.
#[derive(Clone, Debug)]
pub struct SnapshotDir {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Gone already when it became the state itself; what is left otherwise is removed at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl SnapshotDir {
    /// Takes over a folder.
    pub fn new(path: PathBuf) -> Self {
        Self { folder: Arc::new(Folder { path }) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// Its files by name.
    pub fn files(&self) -> io::Result<Vec<SnapshotFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(SnapshotFile { name, size: entry.metadata()?.len() });
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(files)
    }

    /// Reads up to one block at an offset of all files put end to end; empty behind the last byte.
    pub fn read(&self, files: &[SnapshotFile], offset: u64) -> io::Result<Bytes> {
        let Some((name, at, left)) = locate(files, offset) else { return Ok(Bytes::new()) };
        let mut file = fs::File::open(self.path().join(name))?;
        file.seek(SeekFrom::Start(at))?;
        let mut block = vec![0; usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES)];
        file.read_exact(&mut block)?;
        Ok(block.into())
    }
}

/// The file an offset falls into, the place in it, and the bytes left of it.
pub fn locate(files: &[SnapshotFile], offset: u64) -> Option<(&str, u64, u64)> {
    let mut start = 0;
    for file in files {
        if offset < start + file.size {
            return Some((&file.name, offset - start, start + file.size - offset));
        }
        start += file.size;
    }
    None
}

/// A file name that stays inside its folder.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_run_through_the_files() {
        let file = |name: &str, size| SnapshotFile { name: name.into(), size };
        let files = [file("a", 3), file("b", 0), file("c", 2)];
        let cases = [
            (0, Some(("a", 0, 3))),
            (2, Some(("a", 2, 1))),
            (3, Some(("c", 0, 2))),
            (4, Some(("c", 1, 1))),
            (5, None),
        ];
        for (offset, expected) in cases {
            assert_eq!(locate(&files, offset), expected, "offset {offset}");
        }
    }
}
