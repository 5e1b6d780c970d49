//! A member is removed from the group and replaced by a new one with an empty disk.

use crate::cluster::{Cluster, Result};

pub async fn replace(cluster: &Cluster, member: usize) -> Result<String> {
    cluster.replace(member).await?;
    Ok(format!("replaced {}", cluster.name(member)))
}
