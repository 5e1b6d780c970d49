//! What a disk does on a bad day: a torn write at the end of the newest log after a crash.
//!
//! Garbage is appended, as a write that was under way leaves it; synced data stays. A member must notice and drop it, or
//! refuse to start and say so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::unsupported;
use crate::cluster::{Cluster, Error, Result};

/// A torn sector.
const TORN_BYTES: usize = 300;

pub async fn torn_write(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    cluster.kill(member).await?;
    let newest =
        newest_log(&cluster.data_dir(member)).ok_or_else(|| unsupported("no write-ahead log was found"))?;
    let torn = |error: std::io::Error| Error::Io { path: newest.clone(), error };
    let mut file = std::fs::OpenOptions::new().append(true).open(&newest).map_err(torn)?;
    file.write_all(&[0xA5; TORN_BYTES]).map_err(torn)?;
    tokio::time::sleep(lasts).await;
    cluster.start(member).await?;
    Ok(format!("left a torn write at the end of {} of {}", newest.display(), cluster.name(member)))
}

/// The write-ahead log written last: RocksDB's `*.log`, etcd's `*.wal`.
fn newest_log(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
    }
    found.into_iter().max().map(|(_, path)| path)
}
