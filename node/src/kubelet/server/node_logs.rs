//! `GET /logs/…`: files and folders under `/var/log` of the machine.

use std::fs;
use std::path::{Component, Path};

use http::StatusCode;

use super::respond::{Answer, text, with_type};

const ROOT: &str = "/var/log";
/// Largest file sent.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Answers with a file or a list of names. Links that lead out of the folder are not followed.
pub fn answer(path: &[&str]) -> Answer {
    let missing = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let relative = path.join("/");
    if Path::new(&relative).components().any(|c| !matches!(c, Component::Normal(_))) {
        return missing();
    }
    let Ok(full) = Path::new(ROOT).join(&relative).canonicalize() else { return missing() };
    if !full.starts_with(ROOT) {
        return missing();
    }
    let Ok(meta) = fs::metadata(&full) else { return missing() };
    if meta.is_dir() {
        let Ok(entries) = fs::read_dir(&full) else { return missing() };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| {
                let slash = if e.path().is_dir() { "/" } else { "" };
                Some(format!("{}{slash}", e.file_name().to_str()?))
            })
            .collect();
        names.sort();
        let links: String = names.iter().map(|n| format!("<a href=\"{n}\">{n}</a>\n")).collect();
        return with_type(StatusCode::OK, "text/html; charset=utf-8", format!("<pre>\n{links}</pre>\n"));
    }
    if meta.len() > FILE_BYTES_MAX {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the file is too large\n");
    }
    match fs::read(&full) {
        Ok(bytes) => with_type(StatusCode::OK, "text/plain; charset=utf-8", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
