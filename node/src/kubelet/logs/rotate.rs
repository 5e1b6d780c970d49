//! Keeps container logs from growing without end, and removes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::kubelet::cri::names;
use crate::kubelet::pod::observed::State;
use crate::kubelet::pod::spec;
use crate::kubelet::worker::Pool;

/// How often logs are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// Rotates logs of running containers until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        let config = &pool.context().config;
        for view in pool.views() {
            let (namespace, name) = (spec::namespace(&view.pod), spec::name(&view.pod));
            let dir = names::pod_log_dir(&config.pod_logs_dir, namespace, name, spec::uid(&view.pod));
            for container in view.snapshot.observed.containers.iter().filter(|c| c.state == State::Running) {
                let log = dir.join(names::container_log_path(&container.name, container.restart_count));
                if fs::metadata(&log).is_ok_and(|m| m.len() < config.log_bytes_max) {
                    continue;
                }
                if let Err(error) = rotate(&pool, &container.id, &log).await {
                    tracing::warn!(%error, path = %log.display(), "a log cannot be rotated");
                }
            }
        }
    }
}

/// Moves a log aside and has the runtime open a new one. A log that somebody deleted is opened anew too.
async fn rotate(pool: &Pool, id: &str, log: &Path) -> io::Result<()> {
    let kept = pool.context().config.log_files_max;
    let aside = move_aside(log, kept, Timestamp::now())?;
    let reopened = pool.context().runtime.reopen_container_log(id).await;
    if let (Err(error), Some(aside)) = (reopened, aside) {
        // Without a new file the runtime goes on writing into the old one: it takes its place again.
        fs::rename(aside, log)?;
        return Err(io::Error::other(error));
    }
    let log = log.to_owned();
    tokio::task::spawn_blocking(move || compress_old(&log)).await.map_err(io::Error::other)?
}

/// Compresses what was rotated away, but for the newest, which the runtime may still hold open.
fn compress_old(log: &Path) -> io::Result<()> {
    let mut old = files(log);
    old.pop();
    old.pop();
    for plain in old.into_iter().filter(|f| f.extension().is_none_or(|e| e != "gz")) {
        let half = PathBuf::from(format!("{}.tmp", log.display()));
        let mut gzip = GzEncoder::new(fs::File::create(&half)?, Compression::default());
        io::copy(&mut fs::File::open(&plain)?, &mut gzip)?;
        gzip.finish()?;
        fs::rename(&half, format!("{}.gz", plain.display()))?;
        fs::remove_file(plain)?;
    }
    Ok(())
}

/// Renames the log after the time and removes the oldest ones. `None` if there is no log.
fn move_aside(log: &Path, kept: usize, now: Timestamp) -> io::Result<Option<PathBuf>> {
    let mut old = files(log);
    old.pop();
    // One place is the current log's, one the log's that is moved now.
    let excess = (old.len() + 2).saturating_sub(kept.max(2));
    for file in old.into_iter().take(excess) {
        fs::remove_file(file)?;
    }
    let aside = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S")));
    match fs::rename(log, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every file of one log: the current one and those rotated away (`0.log.<time>[.gz]`).
pub fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return vec![];
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    let mut rotated: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && !n.ends_with(".tmp")))
        .map(|e| e.path())
        .collect();
    // Names end in their time: the order of names is the order of age.
    rotated.sort();
    rotated.push(log.to_owned());
    rotated
}

/// Removes a log with everything rotated away from it.
pub fn remove_all(log: &Path) {
    for file in files(log) {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %file.display(), "cannot remove a log");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn all_but_the_newest_are_compressed() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        for (name, text) in [("0.log", "d"), ("0.log.1", "a"), ("0.log.2", "b"), ("0.log.3", "c")] {
            fs::write(dir.path().join(name), text).expect("written");
        }
        compress_old(&log).expect("compressed");
        let names: Vec<String> = files(&log)
            .into_iter()
            .filter_map(|f| f.file_name().map(|n| n.to_string_lossy().into_owned()))
            .collect();
        assert_eq!(names, ["0.log.1.gz", "0.log.2.gz", "0.log.3", "0.log"]);
        let file = fs::File::open(dir.path().join("0.log.2.gz")).expect("there");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "b");
    }

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        for second in 0..5 {
            fs::write(&log, second.to_string()).expect("written");
            let now = Timestamp::from_second(second).expect("in range");
            assert!(move_aside(&log, 3, now).expect("moved").is_some());
        }
        let left: Vec<String> = files(&log).into_iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
        assert_eq!(left, ["3", "4"]);
        assert_eq!(move_aside(&log, 3, Timestamp::UNIX_EPOCH).expect("looked"), None);
        compress_old(&log).expect("compressed");
        remove_all(&log);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
