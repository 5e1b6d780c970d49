//! The large figures: what a store does when there is a lot of something. One member a side.

use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Program};
use etcd_client::{Client, CompactionOptions, Error, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::task::JoinSet;

use super::{ETCD_PORTS, OUR_PORTS, Options, Result, load::closed_loop, resident_mib, start};
use crate::table::{Row, Sample};

const KEYS: u64 = 1_000_000;
const VALUE: [u8; 1024] = [b'v'; 1024];
/// Puts in one transaction, where only the keys count.
const KEYS_A_TXN: u64 = 100;
const WATCHERS: u64 = 10_000;
const LEASES: u64 = 100_000;
/// Long enough to grant all of them before the first runs out.
const LEASE_TTL_SECS: i64 = 120;
/// Writers whose latency is watched while something large happens.
const WRITERS: usize = 20;
const FILLERS: usize = 200;
const CONNECTIONS: usize = 8;
const LEASE_LIMIT: Duration = Duration::from_secs(240);

/// What was measured, by name, unit and whether less is better.
type Figures = Vec<(&'static str, &'static str, bool, Sample)>;

/// Both sides, one after the other: each of these fills the machine.
pub async fn compare(options: &Options, etcd: Program, ours: Program) -> Result<Vec<Row>> {
    let upstream = measure(options, "etcd", etcd, ETCD_PORTS).await?;
    let ours = measure(options, "quarterdeck", ours, OUR_PORTS).await?;
    let both = upstream.into_iter().zip(ours);
    let rows = both.map(|((name, unit, less_is_better, upstream), (.., ours))| Row {
        name: name.to_owned(),
        unit,
        less_is_better,
        upstream,
        ours,
    });
    Ok(rows.collect())
}

async fn measure(options: &Options, side: &str, program: Program, ports: u16) -> Result<Figures> {
    let mut figures = Figures::new();
    let parts: [(&str, Part); 4] = [
        ("keys", Part::Keys),
        ("watchers", Part::Watchers),
        ("history", Part::History),
        ("leases", Part::Leases),
    ];
    for (name, part) in parts.into_iter().filter(|(name, _)| name.contains(options.only.as_str())) {
        eprintln!("{side}: {name}");
        let cluster = start(options, side, program.clone(), 1, ports).await?;
        match part {
            Part::Keys => keys(&cluster, &mut figures).await?,
            Part::Watchers => watchers(&cluster, &mut figures).await?,
            Part::History => history(&cluster, options, &mut figures).await?,
            Part::Leases => leases(&cluster, options, &mut figures).await?,
        }
        cluster.kill(0).await?;
    }
    for (name, unit, _, sample) in &figures {
        eprintln!("{side}: {name}: {:.2} {unit}, p99 {:?} ms", sample.value, sample.p99_ms);
    }
    Ok(figures)
}

#[derive(Clone, Copy)]
enum Part {
    Keys,
    Watchers,
    History,
    Leases,
}

async fn connections(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(cluster.client(0).await?);
    }
    Ok(connections)
}

/// Calls `operation` with every number below `count`, `FILLERS` at a time.
async fn fill<F>(
    connections: &[Client],
    count: u64,
    operation: impl Fn(Client, u64) -> F + Clone + Send + 'static,
) -> Result<()>
where
    F: Future<Output = std::result::Result<(), Error>> + Send,
{
    let mut fillers = JoinSet::new();
    for first in 0..FILLERS as u64 {
        let client = connections[first as usize % connections.len()].clone();
        let operation = operation.clone();
        fillers.spawn(async move {
            for number in (first..count).step_by(FILLERS) {
                operation(client.clone(), number).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

/// A million keys of a kibibyte: how fast they come in, what they keep in memory, and how soon a killed member reads.
async fn keys(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let started = Instant::now();
    fill(&connections, KEYS / KEYS_A_TXN, |mut client, txn| async move {
        let numbers = txn * KEYS_A_TXN..(txn + 1) * KEYS_A_TXN;
        let puts: Vec<TxnOp> =
            numbers.map(|number| TxnOp::put(format!("million/{number:08}"), VALUE, None)).collect();
        client.txn(Txn::new().and_then(puts)).await.map(drop)
    })
    .await?;
    let rate = KEYS as f64 / started.elapsed().as_secs_f64();
    figures.push(("1 M keys of 1 KiB, in txns of 100", "keys/s", false, Sample::plain(rate)));
    figures.push(("… memory of the member", "MiB", true, Sample::plain(resident_mib(cluster)?)));
    let options = GetOptions::new().with_prefix().with_limit(10);
    let mut client = connections[0].clone();
    let started = Instant::now();
    const LIMITED: u32 = 20;
    for _ in 0..LIMITED {
        let answer = client.get("million/", Some(options.clone())).await?;
        assert_eq!(answer.count(), KEYS as i64, "every key is there");
    }
    let limited = started.elapsed().as_secs_f64() * 1000.0 / f64::from(LIMITED);
    figures.push(("… a range limited to 10 of them", "ms", true, Sample::plain(limited)));
    drop((client, connections));
    cluster.kill(0).await?;
    let started = Instant::now();
    cluster.start(0).await?;
    let mut client = cluster.client(0).await?;
    while client.get("million/00000001", None).await.map_or(true, |answer| answer.kvs().is_empty()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let restart = started.elapsed().as_secs_f64();
    figures.push(("… from kill -9 to the first linearizable read", "s", true, Sample::plain(restart)));
    figures.push(("… memory after the restart", "MiB", true, Sample::plain(resident_mib(cluster)?)));
    Ok(())
}

/// Ten thousand watchers, each of a key of its own, which is put once.
async fn watchers(cluster: &Cluster, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let mut waiting = JoinSet::new();
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
    figures.push((
        "10,000 watchers: memory of the member",
        "MiB",
        true,
        Sample::plain(resident_mib(cluster)?),
    ));
    let started = Instant::now();
    fill(&connections, WATCHERS, |mut client, number| async move {
        client.put(format!("watched/{number:05}"), "x", None).await.map(drop)
    })
    .await?;
    let mut told = 0;
    while let Some(heard) = waiting.join_next().await {
        told += u64::from(heard?);
    }
    assert_eq!(told, WATCHERS, "every watcher hears of its key");
    let rate = told as f64 / started.elapsed().as_secs_f64();
    figures.push(("… a put for each, until all have heard", "/s", false, Sample::plain(rate)));
    Ok(())
}

async fn writers(connections: &[Client], duration: Duration) -> Result<Sample> {
    let put = |mut client: Client, number: u64| async move {
        client.put(format!("quiet/{:04}", number % 1_000), VALUE, None).await.map(drop)
    };
    Ok(closed_loop(connections, WRITERS, duration, put).await?)
}

/// A watcher far behind, then a compaction of all of it, and what writers feel of either.
async fn history(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let put = |mut client: Client, number: u64| async move {
        client.put(format!("history/{:05}", number % 10_000), "0123456789abcdef", None).await.map(drop)
    };
    fill(&connections, options.revisions, put).await?;
    let duration = Duration::from_secs(options.seconds);
    figures.push(("puts of 1 KiB, 20 writers, quiet", "/s", false, writers(&connections, duration).await?));
    let behind = tokio::spawn(catch_up(connections[0].clone(), options.revisions));
    figures.push(("… while a watcher catches up", "/s", false, writers(&connections, duration).await?));
    figures.push(("the watcher that is behind", "events/s", false, Sample::plain(behind.await??)));
    fill(&connections, options.revisions, put).await?;
    let mut client = connections[0].clone();
    let revision = client.get("x", None).await?.header().map_or(0, |header| header.revision());
    let compaction = tokio::spawn(async move {
        let started = Instant::now();
        let physical = CompactionOptions::new().with_physical();
        client.compact(revision, Some(physical)).await?;
        Ok::<_, Error>(started.elapsed().as_secs_f64())
    });
    figures.push((
        "puts while twice the revisions are compacted",
        "/s",
        false,
        writers(&connections, duration).await?,
    ));
    figures.push(("… until they are gone from the disk", "s", true, Sample::plain(compaction.await??)));
    Ok(())
}

/// Events a second that a watcher gets which starts at the first revision.
async fn catch_up(mut client: Client, revisions: u64) -> std::result::Result<f64, Error> {
    let from_start = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut stream = client.watch("history/", Some(from_start)).await?;
    let started = Instant::now();
    let mut seen = 0;
    while seen < revisions {
        let Some(response) = stream.message().await? else { break };
        seen += response.events().len() as u64;
    }
    Ok(seen as f64 / started.elapsed().as_secs_f64())
}

/// Leases that all run out at once: the member is killed, and a new leader starts every lease afresh.
async fn leases(cluster: &Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    let connections = connections(cluster).await?;
    let started = Instant::now();
    fill(&connections, LEASES, |mut client, number| async move {
        let lease = client.lease_grant(LEASE_TTL_SECS, None).await?.id();
        client
            .put(format!("leased/{number:06}"), "x", Some(PutOptions::new().with_lease(lease)))
            .await
            .map(drop)
    })
    .await?;
    let rate = LEASES as f64 / started.elapsed().as_secs_f64();
    figures.push(("100,000 leases with a key each, granted", "/s", false, Sample::plain(rate)));
    drop(connections);
    cluster.kill(0).await?;
    cluster.start(0).await?;
    let connections = self::connections(cluster).await?;
    let mut client = connections[0].clone();
    let all = GetOptions::new().with_prefix().with_count_only();
    let deadline = Instant::now() + LEASE_LIMIT;
    let mut first = None;
    let mut felt = None;
    loop {
        let left = client.get("leased/", Some(all.clone())).await?.count();
        if left < LEASES as i64 && first.is_none() {
            first = Some(Instant::now());
            felt = Some(tokio::spawn(watch_writers(connections.clone(), options.seconds)));
        }
        if left == 0 || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = first.map_or(f64::NAN, |first| first.elapsed().as_secs_f64());
    figures.push(("… from the first to the last to expire", "s", true, Sample::plain(took)));
    if let Some(felt) = felt {
        figures.push(("puts of 1 KiB, 20 writers, meanwhile", "/s", false, felt.await??));
    }
    Ok(())
}

async fn watch_writers(connections: Vec<Client>, seconds: u64) -> std::result::Result<Sample, Error> {
    writers(&connections, Duration::from_secs(seconds))
        .await
        .map_err(|error| Error::WatchError(error.to_string()))
}
