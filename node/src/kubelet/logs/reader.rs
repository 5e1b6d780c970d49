//! Reads container logs as clients ask for them: from the end, since a time, following, across rotations.
//! The file part is synchronous and bounded; following polls, so that rotation and deletion are seen.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::format::{Line, parse_line};
use super::rotate;

/// How much of a file is read at once while looking for the last lines.
const BLOCK_BYTES: u64 = 64 * 1024;

/// What a client wants of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only what was written at or after this time.
    pub since: Option<Timestamp>,
    /// Times in front of lines.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only one stream: stdout (`false`) or stderr (`true`).
    pub stderr_only: Option<bool>,
    /// Go on with what is written later.
    pub follow: bool,
}

/// Where in a file the last `lines` full lines begin.
pub fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let len = file.metadata()?.len();
    if lines == 0 {
        return Ok(len);
    }
    let (mut position, mut found) = (len, 0);
    let mut buffer = Vec::new();
    while position > 0 {
        let block = BLOCK_BYTES.min(position);
        position -= block;
        file.seek(SeekFrom::Start(position))?;
        buffer.clear();
        file.by_ref().take(block).read_to_end(&mut buffer)?;
        for (index, byte) in buffer.iter().enumerate().rev() {
            let at = position + index as u64;
            // The line end of the last line does not begin another one.
            if *byte == b'\n' && at + 1 != len {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

/// One log being read.
pub struct Reader {
    log: PathBuf,
    options: Options,
    file: Option<BufReader<File>>,
    /// Rotated files still to be read before the current one, oldest first.
    older: Vec<PathBuf>,
    inode: u64,
    /// The file that took this one's place: what was still written to this one comes first.
    next: Option<File>,
    partial: Vec<u8>,
    left: Option<u64>,
}

impl Reader {
    /// Opens a log. A file that does not exist is an error unless it is followed.
    pub fn open(log: &Path, options: Options) -> io::Result<Self> {
        let mut reader = Self {
            log: log.to_owned(),
            left: options.limit_bytes,
            older: vec![],
            file: None,
            inode: 0,
            next: None,
            partial: vec![],
            options,
        };
        reader.start()?;
        Ok(reader)
    }

    fn start(&mut self) -> io::Result<()> {
        let mut file = File::open(&self.log)?;
        self.inode = inode(&file)?;
        let offset = match self.options.tail_lines {
            Some(lines) => tail_offset(&mut file, lines)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(offset))?;
        if self.options.tail_lines.is_none() {
            // Rotated files are part of the log, unless they are compressed.
            let mut files = rotate::files(&self.log);
            files.pop();
            files.retain(|f| f.extension().is_none_or(|e| e != "gz" && e != "tmp"));
            files.reverse();
            self.older = files;
        }
        self.file = Some(BufReader::new(file));
        Ok(())
    }

    /// The next piece of output; `None` at the end of what is written so far, or once the limit is reached.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            if let Some(old) = self.older.pop() {
                let current = self.file.replace(BufReader::new(File::open(old)?));
                while let Some(chunk) = self.read_line()? {
                    if !chunk.is_empty() {
                        // One file at a time: put the rest in front again through its position.
                        let rest = self.file.take();
                        self.file = current;
                        return self.finish_old(rest, chunk);
                    }
                }
                self.file = current;
                continue;
            }
            match (self.read_line()?, self.next.is_some()) {
                (Some(chunk), _) if chunk.is_empty() => {}
                (None, true) => {
                    self.partial.clear();
                    self.file = self.next.take().map(BufReader::new);
                }
                (chunk, _) => return Ok(chunk),
            }
        }
    }

    /// Reads the rest of a rotated file in one go: such files are bounded by the rotation size.
    fn finish_old(&mut self, rest: Option<BufReader<File>>, first: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        let current = std::mem::replace(&mut self.file, rest);
        let mut all = first;
        while let Some(chunk) = self.read_line()? {
            all.extend(chunk);
            if self.left == Some(0) {
                break;
            }
        }
        self.file = current;
        Ok(Some(all))
    }

    /// One line as output; empty if it is filtered; `None` at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file.as_mut() else { return Ok(None) };
        let count = file.read_until(b'\n', &mut self.partial)?;
        if count == 0 || !self.partial.ends_with(b"\n") {
            return Ok(None);
        }
        let raw = std::mem::take(&mut self.partial);
        let Some(line) = parse_line(&raw) else { return Ok(Some(vec![])) };
        let mut out = self.render(&line);
        if let Some(left) = self.left.as_mut() {
            let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(keep);
            *left -= keep as u64;
        }
        Ok(Some(out))
    }

    fn render(&self, line: &Line<'_>) -> Vec<u8> {
        let wrong_stream = self.options.stderr_only.is_some_and(|stderr| stderr != line.stderr);
        let too_old = self
            .options
            .since
            .is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if wrong_stream || too_old {
            return vec![];
        }
        let mut out = Vec::with_capacity(line.content.len() + 40);
        if self.options.timestamps {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        out
    }

    /// True once the limit is reached.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// While following: opens the new file after a rotation. True if there is one to go on with.
    pub fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        let fresh = match File::open(&self.log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let fresh_inode = inode(&fresh)?;
        if fresh_inode == self.inode {
            return Ok(false);
        }
        self.inode = fresh_inode;
        self.next = Some(fresh);
        Ok(true)
    }
}

fn inode(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00Z stdout F a\n2026-01-01T00:00:01Z stderr F b\n\
                       2026-01-01T00:00:02Z stdout P c\n2026-01-01T00:00:02Z stdout F d\n";

    fn check(options: Options, expected: &str) {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(dir.path().join("0.log.20250101-000000"), "2025-01-01T00:00:00Z stdout F old\n")
            .expect("ok");
        std::fs::write(&log, LOG).expect("written");
        let mut reader = Reader::open(&log, options.clone()).expect("opened");
        let mut out = Vec::new();
        while let Some(chunk) = reader.next_chunk().expect("read") {
            out.extend(chunk);
        }
        assert_eq!(String::from_utf8_lossy(&out), expected, "{options:?}");
    }

    #[test]
    fn every_option() {
        let base = Options::default();
        check(base.clone(), "old\na\nb\ncd\n");
        check(Options { tail_lines: Some(2), ..base.clone() }, "cd\n");
        check(Options { tail_lines: Some(0), ..base.clone() }, "");
        check(Options { tail_lines: Some(100), ..base.clone() }, "a\nb\ncd\n");
        check(Options { since: "2026-01-01T00:00:01Z".parse().ok(), ..base.clone() }, "b\ncd\n");
        check(Options { limit_bytes: Some(5), ..base.clone() }, "old\na");
        check(Options { stderr_only: Some(true), ..base.clone() }, "b\n");
        let stamped = Options { timestamps: true, tail_lines: Some(3), ..base };
        check(stamped, "2026-01-01T00:00:01Z b\n2026-01-01T00:00:02Z c2026-01-01T00:00:02Z d\n");
    }

    #[test]
    fn following_survives_rotation() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(&log, LOG).expect("written");
        let mut reader = Reader::open(&log, Options { follow: true, ..Default::default() }).expect("opened");
        while reader.next_chunk().expect("read").is_some() {}
        assert!(!reader.reopen_if_rotated().expect("looked"));
        let moved = dir.path().join("0.log.1");
        std::fs::rename(&log, &moved).expect("moved");
        assert!(!reader.reopen_if_rotated().expect("looked"));
        // The runtime goes on with the old file until it is told.
        std::fs::write(&moved, format!("{LOG}2026-01-01T00:00:03Z stdout F last\n")).expect("written");
        std::fs::write(&log, "2026-01-01T00:00:03Z stdout F new\n").expect("written");
        assert!(reader.reopen_if_rotated().expect("looked"));
        for expected in [Some("last\n"), Some("new\n"), None] {
            let chunk = reader.next_chunk().expect("read");
            assert_eq!(chunk.as_deref(), expected.map(str::as_bytes));
        }
        assert!(!reader.reopen_if_rotated().expect("looked"));
    }
}
