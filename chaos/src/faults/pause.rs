//! SIGSTOP and SIGCONT: a member that is gone and comes back believing nothing happened.

use std::time::Duration;

use crate::cluster::{Cluster, Result};

pub async fn one(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    cluster.pause(member).await?;
    tokio::time::sleep(lasts).await;
    cluster.resume(member).await?;
    Ok(format!("paused {}", cluster.name(member)))
}
