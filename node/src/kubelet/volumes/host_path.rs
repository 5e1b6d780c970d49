//! hostPath volumes: what must be (or may be made) at the path before a container sees it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks the path against the volume's type, making what may be made. The error text is upstream's.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let failed = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let found = fs::metadata(path).map(|m| m.file_type()).ok();
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_none() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|e| text(path, &e))
        }
        "Directory" | "DirectoryOrCreate" if found.is_some_and(|t| t.is_dir()) => Ok(()),
        "Directory" | "DirectoryOrCreate" => failed("a directory"),
        "FileOrCreate" if found.is_none() => {
            let open = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
            open.map(drop).map_err(|e| text(path, &e))
        }
        "File" | "FileOrCreate" if found.is_some_and(|t| t.is_file()) => Ok(()),
        "File" | "FileOrCreate" => failed("a file"),
        "Socket" if found.is_some_and(|t| t.is_socket()) => Ok(()),
        "Socket" => failed("a socket file"),
        "CharDevice" if found.is_some_and(|t| t.is_char_device()) => Ok(()),
        "CharDevice" => failed("a character device"),
        "BlockDevice" if found.is_some_and(|t| t.is_block_device()) => Ok(()),
        "BlockDevice" => failed("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn text(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("f");
        fs::write(&file, "").expect("written");
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("bound");
        let check = |name: &str, kind: &str, ok: bool| {
            let path = dir.path().join(name);
            assert_eq!(prepare(&path, kind).is_ok(), ok, "{name} {kind}");
        };
        check("none", "", true);
        check("none", "Directory", false);
        check("new/deep", "DirectoryOrCreate", true);
        check("new/deep", "Directory", true);
        check("f", "DirectoryOrCreate", false);
        check("f", "File", true);
        check("g", "FileOrCreate", true);
        check("new", "File", false);
        check("s", "Socket", true);
        check("f", "Socket", false);
        check("f", "BlockDevice", false);
        check("f", "Nonsense", false);
        assert!(prepare(Path::new("/dev/null"), "CharDevice").is_ok());
    }
}
