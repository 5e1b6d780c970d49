//! Compaction and defragmentation under load.

use std::time::Duration;

use super::not_inflicted;
use crate::cluster::{Cluster, Result};

const BETWEEN: Duration = Duration::from_millis(500);
/// Revisions kept: few, so that watchers that are behind are cut off now and then and must say so.
const KEEP: i64 = 20;

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
    if compacted == 0 {
        return Err(not_inflicted("there was nothing to compact"));
    }
    Ok(format!("compacted up to revision {compacted}"))
}
