//! A million keys of a kibibyte: how fast they come in, what they keep in memory, and how soon a killed member reads.

use std::time::{Duration, Instant};

use chaos::cluster::Cluster;
use etcd_client::{GetOptions, Txn, TxnOp};

use super::{Figures, Result, VALUE, connections, fill, resident_mib};
use crate::table::Sample;

const KEYS: u64 = 1_000_000;
/// Puts in one transaction, where only the keys count.
const KEYS_A_TXN: u64 = 100;
/// Keys a limited range asks for.
const PAGE: i64 = 10;
/// Limited ranges the mean is taken of.
const PAGES: u32 = 20;
const POLL: Duration = Duration::from_millis(20);

pub async fn measure(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let clients = connections(cluster).await?;
    let started = Instant::now();
    fill(&clients, KEYS / KEYS_A_TXN, |mut client, txn| async move {
        let numbers = txn * KEYS_A_TXN..(txn + 1) * KEYS_A_TXN;
        let puts: Vec<TxnOp> =
            numbers.map(|number| TxnOp::put(format!("million/{number:08}"), VALUE, None)).collect();
        client.txn(Txn::new().and_then(puts)).await.map(drop)
    })
    .await?;
    let rate = KEYS as f64 / started.elapsed().as_secs_f64();
    figures.rate("1 M keys of 1 KiB, in txns of 100", "keys/s", Sample::plain(rate));
    figures.cost("… memory of the member", "MiB", resident_mib(cluster)?);
    let page = GetOptions::new().with_prefix().with_limit(PAGE);
    let mut client = clients[0].clone();
    let started = Instant::now();
    for _ in 0..PAGES {
        let answer = client.get("million/", Some(page.clone())).await?;
        if answer.count() != KEYS as i64 {
            return Err(format!("{} keys of {KEYS} are there", answer.count()).into());
        }
    }
    let limited = started.elapsed().as_secs_f64() * 1000.0 / f64::from(PAGES);
    figures.cost("… a range limited to 10 of them", "ms", limited);
    drop((client, clients));
    restart(cluster, figures).await
}

async fn restart(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    cluster.kill(0).await?;
    let started = Instant::now();
    cluster.start(0).await?;
    let mut client = cluster.client(0).await?;
    while client.get("million/00000001", None).await.map_or(true, |answer| answer.kvs().is_empty()) {
        tokio::time::sleep(POLL).await;
    }
    figures.cost("… from kill -9 to the first linearizable read", "s", started.elapsed().as_secs_f64());
    figures.cost("… memory after the restart", "MiB", resident_mib(cluster)?);
    Ok(())
}
