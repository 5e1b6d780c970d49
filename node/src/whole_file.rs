//! Small files that are always whole: whoever reads one sees the old content or the new one, also after a power failure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file's content, making its folder where there is none. The half file beside it begins with a dot: those
/// who watch the folder leave it alone. One writer at a time.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())));
    };
    fs::create_dir_all(dir)?;
    let half = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    let mut file = File::create(&half)?;
    file.write_all(content)?;
    // On disk before it takes the other's place: else it may be empty after the power went.
    file.sync_all()?;
    fs::rename(half, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_takes_the_place_of_the_old() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deep/file");
        for content in ["one", "two, and longer", ""] {
            replace(&path, content.as_bytes()).expect("replaced");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
        }
        let names = fs::read_dir(dir.path().join("deep")).expect("listed").flatten().map(|e| e.file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["file"], "nothing else is left");
        assert!(replace(Path::new("/"), b"").is_err());
    }
}
