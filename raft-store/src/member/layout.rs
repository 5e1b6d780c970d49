//! Where a member's files are.
//!
//! `<data-dir>/member/` holds `identity`, `log/` (unless `--wal-dir` names another folder for it), one `state-<n>/` named by `CURRENT`, and `copies/` for
//! snapshots on their way in or out. Whatever a crash left half done is removed at the next start.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What others may do with a folder of data: nothing.
const PRIVATE: u32 = 0o700;

/// The folders of one data directory.
#[derive(Clone, Debug)]
pub struct Layout {
    member: PathBuf,
    copies: PathBuf,
    log: PathBuf,
}

impl Layout {
    /// Creates what is missing and removes what is left over.
    pub fn prepare(data_dir: &Path) -> io::Result<Self> {
        let member = data_dir.join("member");
        let copies = member.join("copies");
        // Whoever holds its lock has made it, and has been told if it is open to others.
        if !member.exists() {
            touch_private(&member)?;
        }
        let log = member.join("log");
        let layout = Self { member, copies, log };
        if layout.copies.exists() {
            fs::remove_dir_all(&layout.copies)?;
        }
        fs::create_dir_all(&layout.copies)?;
        if !layout.current_file().exists() {
            layout.set_current("state-1")?;
        }
        let current = layout.state()?;
        for entry in fs::read_dir(&layout.member)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with("state-") && path != current {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(layout)
    }

    /// The same, with the log in `dir`, where there is one; it is created.
    pub fn with_log_in(self, dir: Option<&Path>) -> io::Result<Self> {
        let Some(dir) = dir else { return Ok(self) };
        touch_private(dir)?;
        Ok(Self { log: dir.join("log"), ..self })
    }

    /// The Raft log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Moves the log out of the way; a new one begins. The old one is kept, for whoever wants to look.
    pub fn set_log_aside(&self) -> io::Result<()> {
        let aside = |number: u32| self.log.with_file_name(format!("log-old-{number}"));
        let free = (1..).map(aside).find(|path| !path.exists()).unwrap_or_else(|| aside(0));
        fs::rename(&self.log, free)?;
        sync_dir(self.log.parent().unwrap_or(&self.member))
    }

    /// Snapshots on their way in or out.
    pub fn copies(&self) -> &Path {
        &self.copies
    }

    /// A path for a new copy of the state.
    pub fn new_copy(&self, number: u64) -> io::Result<PathBuf> {
        let path = self.copies.join(format!("out-{number}"));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        Ok(path)
    }

    /// The record of who this member is.
    pub fn identity_file(&self) -> PathBuf {
        self.member.join("identity")
    }

    /// Notes who founded the cluster a restored member belongs to, so that it starts without being told again.
    pub fn store_founders(&self, cluster: &str, token: &str) -> io::Result<()> {
        write_durably(&self.member.join("founders"), format!("{cluster}\n{token}\n").as_bytes())
    }

    /// The noted founders and their token, if there are any.
    pub fn founders(&self) -> io::Result<Option<(String, String)>> {
        let path = self.member.join("founders");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path)?;
        Ok(text.split_once('\n').map(|(cluster, token)| (cluster.to_owned(), token.trim().to_owned())))
    }

    fn current_file(&self) -> PathBuf {
        self.member.join("CURRENT")
    }

    fn set_current(&self, name: &str) -> io::Result<()> {
        write_durably(&self.current_file(), name.as_bytes())
    }

    /// The state in use.
    pub fn state(&self) -> io::Result<PathBuf> {
        let name = fs::read_to_string(self.current_file())?;
        let name = name.trim();
        if !name.starts_with("state-") || name.contains('/') {
            let file = self.current_file();
            return Err(io::Error::other(format!("{} names no state: {name:?}", file.display())));
        }
        Ok(self.member.join(name))
    }

    /// Makes a complete copy the state in use, durably, and returns where it is now.
    pub fn adopt_state(&self, copy: &Path) -> io::Result<PathBuf> {
        let current = self.state()?;
        let number = current
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("state-")?.parse::<u64>().ok())
            .unwrap_or(0);
        let name = format!("state-{}", number + 1);
        let target = self.member.join(&name);
        fs::rename(copy, &target)?;
        sync_dir(&target)?;
        sync_dir(&self.member)?;
        self.set_current(&name)?;
        Ok(target)
    }
}

/// Writes a file so that after a crash it is the old one or the new one, whole.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = fs::File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Creates a folder, and those above it, for their owner alone. One that is there and open to others is told of, as etcd
/// does, and taken: what is created within it is not.
pub fn touch_private(dir: &Path) -> io::Result<()> {
    let found = match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(dir);
        }
        found => found?,
    };
    let mode = found.permissions().mode() & 0o777;
    if mode != PRIVATE {
        let (found, advised) = (format!("{mode:o}"), format!("{PRIVATE:o}"));
        tracing::warn!(dir = %dir.display(), found, advised, "others may read this directory and its data");
    }
    Ok(())
}

/// Makes the name of a file or folder durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_dir(parent.unwrap_or(Path::new(".")))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_folders_are_their_owners_alone_and_old_ones_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let data_dir = dir.path().join("data");
        let layout = Layout::prepare(&data_dir).unwrap();
        assert_eq!((mode(&data_dir), mode(&data_dir.join("member"))), (PRIVATE, PRIVATE));
        fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        touch_private(&data_dir).unwrap();
        assert_eq!(mode(&data_dir), 0o755);
        let log_dir = dir.path().join("wal");
        layout.with_log_in(Some(&log_dir)).unwrap();
        assert_eq!(mode(&log_dir), PRIVATE);
    }
}
