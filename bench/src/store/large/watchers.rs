//! Ten thousand watchers, each on a stream of its own, of a key of its own, which is put once.

use std::time::Instant;

use chaos::cluster::Cluster;
use tokio::task::JoinSet;

use super::{Figures, Result, connections, fill, resident_mib};
use crate::table::Sample;

const WATCHERS: u64 = 10_000;

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let mut waiting = JoinSet::new();
    let started = Instant::now();
    for number in 0..WATCHERS {
        let mut client = connections[number as usize % connections.len()].clone();
        let mut stream = client.watch(format!("watched/{number:05}"), None).await?;
        waiting.spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                if !response.events().is_empty() {
                    return true;
                }
            }
            false
        });
    }
    let rate = WATCHERS as f64 / started.elapsed().as_secs_f64();
    figures.rate("10,000 watchers, made one after the other", "/s", Sample::plain(rate));
    figures.cost("… memory of the member with them", "MiB", resident_mib(cluster)?);
    let started = Instant::now();
    fill(&connections, WATCHERS, |mut client, number| async move {
        client.put(format!("watched/{number:05}"), "x", None).await.map(drop)
    })
    .await?;
    let mut told = 0;
    while let Some(heard) = waiting.join_next().await {
        told += u64::from(heard?);
    }
    if told != WATCHERS {
        return Err(format!("{told} watchers of {WATCHERS} heard of their key").into());
    }
    let rate = told as f64 / started.elapsed().as_secs_f64();
    figures.rate("… a put for each, until all have heard", "/s", Sample::plain(rate));
    Ok(())
}
