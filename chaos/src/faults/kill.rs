//! kill -9 of one member, of all, and restarts in turn.

use std::time::Duration;

use crate::cluster::{Cluster, Result};

/// A member is up again when it answers; a rolling restart waits for that before it goes on.
const SETTLE: Duration = Duration::from_millis(1_500);

pub async fn one(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    cluster.kill(member).await?;
    tokio::time::sleep(lasts).await;
    cluster.start(member).await?;
    Ok(format!("killed {}", cluster.name(member)))
}

pub async fn all(cluster: &Cluster, lasts: Duration) -> Result<String> {
    for member in 0..cluster.len() {
        cluster.kill(member).await?;
    }
    tokio::time::sleep(lasts / 2).await;
    for member in 0..cluster.len() {
        cluster.start(member).await?;
    }
    Ok("killed all".to_owned())
}

pub async fn rolling(cluster: &Cluster) -> Result<String> {
    for member in 0..cluster.len() {
        cluster.terminate(member).await?;
        cluster.start(member).await?;
        tokio::time::sleep(SETTLE).await;
    }
    Ok("restarted each in turn".to_owned())
}
