//! What a disk does on a bad day.
//!
//! A torn write: garbage at the end of the newest log, as a write that was under way leaves it; synced data stays. Lost
//! writes: everything that was not synced is gone. A full or failing disk. Damage: bits flip in, or the end is cut off,
//! what had been synced; then a member must notice and refuse to serve, or be able to do without; one that refuses is
//! replaced by a new one, as its administrator would.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rand::Rng;
use rand::rngs::StdRng;

use super::not_inflicted;
use crate::cluster::{Cluster, DiskMood, Error, Result, Started};

/// A torn sector.
const TORN_BYTES: usize = 300;
/// Bits that flip at once.
const FLIPS: u64 = 3;
/// Of a file's bytes, so much is cut off at most.
const CUT_SHARE_MAX: f64 = 0.2;

/// A member that has found damage ends within this, or answers; one that does neither is replaced as well.
const VERDICT_WITHIN: Duration = Duration::from_secs(30);

/// What is damaged.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Log,
    State,
}

/// A way to damage a file, by draws that hold for a file of any length.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    part: Part,
    flips: Option<[f64; FLIPS as usize]>,
    cut_share: f64,
}

impl Damage {
    pub fn flip(part: Part, rng: &mut StdRng) -> Self {
        Damage { part, flips: Some(std::array::from_fn(|_| rng.random())), cut_share: 0.0 }
    }

    pub fn cut(part: Part, rng: &mut StdRng) -> Self {
        Damage { part, flips: None, cut_share: rng.random_range(0.0..CUT_SHARE_MAX) }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        // Logs are allocated ahead: the zeros behind what was written are nobody's loss.
        let length = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for place in self.flips.iter().flatten().filter(|_| length > 0) {
            let at = ((length as f64 * place) as usize).min(length - 1);
            content[at] ^= 1 << (at % 8);
        }
        if self.cut_share > 0.0 {
            content.truncate(length - (length as f64 * self.cut_share) as usize);
        }
    }
}

pub async fn torn_write(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    // One that has just joined may have no files yet.
    cluster.await_answer(member).await?;
    cluster.kill(member).await?;
    // One that has everything from a snapshot has written nothing yet.
    let dir = cluster.data_dir(member);
    let newest = newest(&dir, Part::Log, 1)
        .or_else(|| newest(&dir, Part::Log, 0))
        .ok_or_else(|| not_inflicted("no write-ahead log was found"))?;
    let torn = |error: std::io::Error| Error::Io { path: newest.clone(), error };
    let mut file = std::fs::OpenOptions::new().append(true).open(&newest).map_err(torn)?;
    file.write_all(&[0xA5; TORN_BYTES]).map_err(torn)?;
    tokio::time::sleep(lasts).await;
    cluster.start(member).await?;
    Ok(format!("left a torn write at the end of {} of {}", newest.display(), cluster.name(member)))
}

pub async fn lose_unsynced(cluster: &Cluster, lasts: Duration) -> Result<String> {
    for member in 0..cluster.len() {
        cluster.kill(member).await?;
    }
    let mut lost = 0;
    for member in 0..cluster.len() {
        lost += cluster.drop_unsynced(member)?;
    }
    tokio::time::sleep(lasts / 2).await;
    for member in 0..cluster.len() {
        cluster.start(member).await?;
    }
    Ok(format!("all lost power, and with it {lost} bytes that were not synced"))
}

pub async fn full(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    mood(cluster, member, DiskMood::Full, lasts).await?;
    Ok(format!("the disk of {} was full", cluster.name(member)))
}

pub async fn failing(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    mood(cluster, member, DiskMood::Failing, lasts).await?;
    Ok(format!("the disk of {} failed writes and syncs", cluster.name(member)))
}

/// A member may end of it, and is then started again once the disk is well.
async fn mood(cluster: &Cluster, member: usize, mood: DiskMood, lasts: Duration) -> Result<()> {
    cluster.set_disk(member, mood)?;
    tokio::time::sleep(lasts).await;
    cluster.set_disk(member, DiskMood::Well)?;
    cluster.revive(member).await
}

pub async fn damage(cluster: &Cluster, member: usize, damage: Damage) -> Result<String> {
    // It may be lost for good, which is no time for another to be down.
    cluster.await_all().await?;
    match damage.part {
        Part::Log => cluster.kill(member).await?,
        // What was applied may be in memory alone until an orderly end writes it.
        Part::State => cluster.terminate(member).await?,
    }
    let name = cluster.name(member);
    let target = newest(&cluster.data_dir(member), damage.part, 1)
        .ok_or_else(|| not_inflicted(&format!("{name} has no file to damage")))?;
    let failed = |error: std::io::Error| Error::Io { path: target.clone(), error };
    let mut content = std::fs::read(&target).map_err(failed)?;
    damage.apply(&mut content);
    std::fs::write(&target, content).map_err(failed)?;
    cluster.start(member).await?;
    let did = match damage.flips {
        Some(_) => "flipped bits in",
        None => "cut off the end of",
    };
    let what = format!("{did} {} of {name}", target.display());
    let did = match cluster.outcome(member, VERDICT_WITHIN).await {
        Started::Answers => return Ok(format!("{what}, which did without")),
        Started::Ended => "refused to serve".to_owned(),
        Started::Silent => format!("neither served nor ended in {VERDICT_WITHIN:?}"),
    };
    let words = cluster.last_words(member, 1);
    cluster.give_up(member).await?;
    cluster.replace(member).await?;
    Ok(format!("{what}, which {did} ({words}) and was replaced"))
}

/// The file of this part that was written last and has so many bytes: RocksDB's `*.log` and etcd's `*.wal`; an `*.sst` of the state, and etcd's
/// `db`.
fn newest(dir: &Path, part: Part, bytes_min: u64) -> Option<PathBuf> {
    let wanted = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match part {
            Part::Log => matches!(extension, "log" | "wal"),
            Part::State => {
                let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
                let is_state = folder.to_string_lossy().starts_with("state");
                (extension == "sst" && is_state) || path.file_name().is_some_and(|name| name == "db")
            }
        }
    };
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.len() >= bytes_min && wanted(&path) {
                found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
    }
    found.into_iter().max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn damage_damages_files_of_any_length() {
        let mut rng = StdRng::seed_from_u64(5);
        for length in [0_usize, 1, 7, 4096] {
            let whole = vec![0xFF_u8; length];
            let mut flipped = whole.clone();
            Damage::flip(Part::Log, &mut rng).apply(&mut flipped);
            assert_eq!(flipped.len(), length);
            assert_eq!(flipped != whole, length > 0, "{length}");
            let mut cut = whole.clone();
            Damage::cut(Part::State, &mut rng).apply(&mut cut);
            assert!(cut.len() <= length && whole.starts_with(&cut));
        }
    }

    #[test]
    fn the_file_written_last_is_found_below_the_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("member/wal");
        std::fs::create_dir_all(&folder).expect("made");
        for (name, content) in [("a.wal", "1"), ("b.txt", "2"), ("empty.log", "")] {
            std::fs::write(folder.join(name), content).expect("written");
        }
        assert_eq!(newest(dir.path(), Part::Log, 1), Some(folder.join("a.wal")));
        std::fs::create_dir_all(dir.path().join("member/state-1")).expect("made");
        std::fs::write(folder.join("7.sst"), "of the log").expect("written");
        assert_eq!(newest(dir.path(), Part::State, 1), None);
        let state = dir.path().join("member/state-1/9.sst");
        std::fs::write(&state, "of the state").expect("written");
        assert_eq!(newest(dir.path(), Part::State, 1), Some(state));
    }
}
