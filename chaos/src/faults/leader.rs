//! Leadership moved on request, several times in a window.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::not_inflicted;
use crate::cluster::{Cluster, Result};

const BETWEEN: Duration = Duration::from_millis(700);

pub async fn wander(cluster: &Cluster, lasts: Duration, rng: &mut StdRng) -> Result<String> {
    let until = tokio::time::Instant::now() + lasts;
    let mut moved = 0;
    while tokio::time::Instant::now() < until {
        let target = rng.random_range(0..cluster.len());
        // A refusal (an election is under way, the target leads already) is tried again with another.
        moved += usize::from(cluster.move_leader(target).await.is_ok());
        tokio::time::sleep(BETWEEN).await;
    }
    if moved == 0 {
        return Err(not_inflicted("every move of leadership was refused"));
    }
    Ok(format!("moved leadership {moved} times"))
}
