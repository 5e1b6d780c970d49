//! Members join, leave, and are replaced by new ones with empty disks; one at a time, and only where all others are up, as
//! an administrator would.

use std::time::Duration;

use crate::cluster::{Cluster, Result};

/// One more member, for the length of the window.
pub async fn add(cluster: &Cluster, lasts: Duration) -> Result<String> {
    cluster.await_all().await?;
    cluster.join_extra().await?;
    tokio::time::sleep(lasts).await;
    cluster.leave_extra().await?;
    Ok("one more member joined and left".to_owned())
}

/// One member less, for the length of the window.
pub async fn remove(cluster: &Cluster, member: usize, lasts: Duration) -> Result<String> {
    cluster.await_all().await?;
    cluster.remove(member).await?;
    tokio::time::sleep(lasts).await;
    cluster.admit(member).await?;
    Ok(format!("removed {}, and added it again", cluster.name(member)))
}

pub async fn replace(cluster: &Cluster, member: usize) -> Result<String> {
    cluster.await_all().await?;
    cluster.replace(member).await?;
    Ok(format!("replaced {}", cluster.name(member)))
}
