//! Termination messages: what a container wrote to its file, else the end of its log where the spec says so.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use proto::cri;

use crate::kubelet::cri::names::{TERMINATION_PATH, TERMINATION_POLICY};
use crate::kubelet::cri::observe::LastWords;
use crate::kubelet::logs::format::parse_line;

/// Most bytes of a message.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Most bytes and lines of a log's end used as a message.
const LOG_BYTES_MAX: u64 = 2048;
/// See [`LOG_BYTES_MAX`].
const LOG_LINES_MAX: usize = 80;

/// Reads messages from the machine's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct FromFiles;

impl LastWords for FromFiles {
    fn read(&self, status: &cri::ContainerStatus) -> String {
        if status.state != cri::ContainerState::ContainerExited as i32 {
            return String::new();
        }
        let path = status.annotations.get(TERMINATION_PATH).cloned().unwrap_or_default();
        let mount = status.mounts.iter().find(|m| m.container_path == path);
        let written =
            mount.and_then(|m| tail(Path::new(&m.host_path), MESSAGE_BYTES_MAX)).unwrap_or_default();
        if !written.is_empty() {
            return written;
        }
        let fallback = status.annotations.get(TERMINATION_POLICY).map(String::as_str);
        if fallback == Some("FallbackToLogsOnError")
            && status.exit_code != 0
            && let Some(text) = log_tail(Path::new(&status.log_path)).filter(|t| !t.is_empty())
        {
            return text;
        }
        status.message.clone()
    }
}

/// The last bytes of a file as text; a first character cut in two is dropped.
fn tail(path: &Path, bytes_max: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(bytes_max))).ok()?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_start_matches('\u{fffd}').to_owned())
}

fn log_tail(path: &Path) -> Option<String> {
    // Log lines carry a time stamp of their own: read more than is kept.
    let raw = tail(path, LOG_BYTES_MAX * 4)?;
    let lines: Vec<&str> = raw.split_inclusive('\n').collect();
    let kept = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
    let text: String = kept
        .iter()
        .filter_map(|l| parse_line(l.as_bytes()))
        .map(|l| {
            let mut text = String::from_utf8_lossy(l.content).into_owned();
            if !l.partial {
                text.push('\n');
            }
            text
        })
        .collect();
    let start = text.len().saturating_sub(usize::try_from(LOG_BYTES_MAX).unwrap_or(usize::MAX));
    Some(text[text.ceil_char_boundary(start)..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: Option<&str>, policy: &str, exit_code: i32, expected: &str) {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n")
            .expect("ok");
        let path = dir.path().join("words");
        if let Some(text) = file {
            std::fs::write(&path, text).expect("written");
        }
        let status = cri::ContainerStatus {
            state: cri::ContainerState::ContainerExited as i32,
            exit_code,
            log_path: log.to_string_lossy().into_owned(),
            annotations: [
                (TERMINATION_PATH.to_owned(), "/t".to_owned()),
                (TERMINATION_POLICY.to_owned(), policy.to_owned()),
            ]
            .into(),
            mounts: vec![cri::Mount {
                container_path: "/t".into(),
                host_path: path.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            message: "runtime's".into(),
            ..Default::default()
        };
        assert_eq!(FromFiles.read(&status), expected);
    }

    #[test]
    fn file_then_log_then_runtime() {
        check(Some("bye"), "File", 0, "bye");
        check(Some(""), "FallbackToLogsOnError", 1, "one\ntwo\n");
        check(Some(""), "FallbackToLogsOnError", 0, "runtime's");
        check(None, "File", 1, "runtime's");
        check(Some(&"x".repeat(5000)), "File", 1, &"x".repeat(4096));
    }
}
