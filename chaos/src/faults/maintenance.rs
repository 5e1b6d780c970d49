//! Compaction and defragmentation under load.

use std::time::Duration;

use crate::cluster::{Cluster, Result};

const BETWEEN: Duration = Duration::from_millis(500);
/// Revisions kept, so that watchers that are a little behind are not cut off.
const KEEP: i64 = 1_000;

pub async fn compact(cluster: &Cluster, lasts: Duration) -> Result<String> {
    let until = tokio::time::Instant::now() + lasts;
    let mut compacted = 0;
    while tokio::time::Instant::now() < until {
        // A member that cannot answer now is asked again; the run goes on.
        if let Ok(revision) = cluster.compact(KEEP).await {
            compacted = compacted.max(revision);
        }
        for member in 0..cluster.len() {
            let _ = cluster.defragment(member).await;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(format!("compacted up to revision {compacted}"))
}
