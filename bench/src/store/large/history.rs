//! A watcher far behind, then a compaction of all of it, and what writers feel of either.

use std::time::{Duration, Instant};

use chaos::cluster::Cluster;
use etcd_client::{Client, CompactionOptions, Error, WatchOptions};

use super::{Figures, Options, Result, connections, fill, meanwhile::meanwhile, quiet};
use crate::table::Sample;

/// Keys that the revisions go to, in turn.
const KEYS: u64 = 10_000;
const PREFIX: &str = "history/";
/// A watcher that is still behind after this time is left where it is: some never catch up with 20 writers.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

pub async fn measure(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let put = |mut client: Client, number: u64| async move {
        client.put(format!("{PREFIX}{:05}", number % KEYS), "0123456789abcdef", None).await.map(drop)
    };
    let started = Instant::now();
    fill(&connections, options.revisions, put).await?;
    let rate = options.revisions as f64 / started.elapsed().as_secs_f64();
    figures.rate("puts of 16 bytes, 200 writers", "/s", Sample::plain(rate));
    figures.rate("puts of 1 KiB, 20 writers, quiet", "/s", quiet(&connections, options).await?);
    let behind = catch_up(connections[0].clone(), options.revisions);
    let (rate, felt) = meanwhile(&connections, behind).await?;
    figures.rate("… while a watcher catches up", "/s", felt);
    figures.rate("the watcher that is behind", "events/s", Sample::plain(rate));
    fill(&connections, options.revisions, put).await?;
    let calm = quiet(&connections, options).await?;
    figures.rate("puts of 1 KiB, 20 writers, twice the revisions, quiet", "/s", calm);
    let (took, felt) = meanwhile(&connections, compact(connections[0].clone())).await?;
    figures.rate("… while all of them are compacted", "/s", felt);
    figures.cost("the compaction, until they are gone from the disk", "s", took);
    Ok(())
}

/// Events a second that a watcher gets which starts at the first revision, until it has caught up or the time is over.
async fn catch_up(mut client: Client, revisions: u64) -> std::result::Result<f64, Error> {
    let from_start = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut stream = client.watch(PREFIX, Some(from_start)).await?;
    let started = Instant::now();
    let mut seen = 0;
    while seen < revisions {
        let Some(left) = CATCH_UP_LIMIT.checked_sub(started.elapsed()) else { break };
        let Ok(message) = tokio::time::timeout(left, stream.message()).await else { break };
        let Some(response) = message? else { break };
        seen += response.events().len() as u64;
    }
    Ok(seen as f64 / started.elapsed().as_secs_f64())
}

/// Seconds until everything before the newest revision is gone.
async fn compact(mut client: Client) -> std::result::Result<f64, Error> {
    let revision = client.get("x", None).await?.header().map_or(0, |header| header.revision());
    let started = Instant::now();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await?;
    Ok(started.elapsed().as_secs_f64())
}
