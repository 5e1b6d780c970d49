//! A hundred thousand leases, each with a key, granted such that all run out in the same second.

use std::time::{Duration, Instant};

use chaos::cluster::Cluster;
use etcd_client::{Client, Error, GetOptions, PutOptions};

use super::{Figures, Options, Result, connections, fill, meanwhile::meanwhile, quiet};
use crate::table::Sample;

const LEASES: u64 = 100_000;
const PREFIX: &str = "leased/";
/// When they end, counted from the first grant: long enough to grant all before.
const LIFE: Duration = Duration::from_secs(75);
/// The shortest that may be left when the last is granted: time for the quiet figure, and for rounding.
const LEFT_MIN: Duration = Duration::from_secs(10);
/// None may have ended so long before its time.
const ROUNDING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

pub async fn measure(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let started = Instant::now();
    let end = started + LIFE;
    fill(&connections, LEASES, move |client, number| grant(client, number, end)).await?;
    let rate = LEASES as f64 / started.elapsed().as_secs_f64();
    figures.rate("100,000 leases with a key each, granted", "/s", Sample::plain(rate));
    if started.elapsed() + LEFT_MIN > LIFE {
        return Err(format!("granting took {:?} of the leases' {LIFE:?}", started.elapsed()).into());
    }
    figures.rate("puts of 1 KiB, 20 writers, all leases alive", "/s", quiet(&connections, options).await?);
    tokio::time::sleep_until((end - ROUNDING).into()).await;
    let alive = count(&mut connections[0].clone()).await?;
    if alive != LEASES {
        return Err(format!("{} leases ended early", LEASES - alive).into());
    }
    let (took, felt) = meanwhile(&connections, until_gone(connections[0].clone(), end)).await?;
    figures.cost("… from their end until the last is gone", "s", took);
    figures.rate("… puts of 1 KiB, 20 writers, meanwhile", "/s", felt);
    Ok(())
}

async fn grant(mut client: Client, number: u64, end: Instant) -> std::result::Result<(), Error> {
    let left = end.saturating_duration_since(Instant::now()).as_secs_f64().round() as i64;
    let lease = client.lease_grant(left, None).await?.id();
    let options = PutOptions::new().with_lease(lease);
    client.put(format!("{PREFIX}{number:06}"), "x", Some(options)).await.map(drop)
}

async fn count(client: &mut Client) -> std::result::Result<u64, Error> {
    let all = GetOptions::new().with_prefix().with_count_only();
    Ok(client.get(PREFIX, Some(all)).await?.count().unsigned_abs())
}

/// Seconds from `end` until no key is left.
async fn until_gone(mut client: Client, end: Instant) -> std::result::Result<f64, Error> {
    while count(&mut client).await? > 0 {
        tokio::time::sleep(POLL).await;
    }
    Ok(end.elapsed().as_secs_f64())
}
