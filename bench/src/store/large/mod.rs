//! The large figures: what a store does when there is a lot of something. One member a side.
//!
//! Every part starts a fresh member and prints what it measures at once; a part that fails or takes too long costs its
//! own figures only, and the table says `none` for them.

mod history;
mod keys;
mod leases;
mod meanwhile;
mod watchers;

use std::time::Duration;

use chaos::cluster::{Cluster, Program};
use etcd_client::{Client, ConnectOptions, Error};
use tokio::task::JoinSet;

use super::{ETCD_PORTS, OUR_PORTS, Options, Result, load::closed_loop, resident_mib, start};
use crate::table::{Row, Sample};

const VALUE: [u8; 1024] = [b'v'; 1024];
/// Writers whose latency is watched while something large happens.
const WRITERS: usize = 20;
const FILLERS: usize = 200;
const CONNECTIONS: usize = 8;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A single request: a compaction of a million revisions, or a count of a million keys, may take its time.
const REQUEST_LIMIT: Duration = Duration::from_secs(200);
/// A part that has not ended by then is given up.
const PART_LIMIT: Duration = Duration::from_secs(300);

/// What was measured of one side, in order.
struct Figures {
    side: &'static str,
    rows: Vec<Figure>,
}

struct Figure {
    name: &'static str,
    unit: &'static str,
    less_is_better: bool,
    sample: Sample,
}

impl Figures {
    /// So much a second, perhaps with latencies.
    fn rate(&mut self, name: &'static str, unit: &'static str, sample: Sample) {
        self.push(Figure { name, unit, less_is_better: false, sample });
    }

    /// A time or a size.
    fn cost(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.push(Figure { name, unit, less_is_better: true, sample: Sample::plain(value) });
    }

    fn push(&mut self, figure: Figure) {
        let Figure { name, unit, sample, .. } = &figure;
        eprintln!("{}: {name}: {:.2} {unit}, p99 {:?} ms", self.side, sample.value, sample.p99_ms);
        self.rows.push(figure);
    }
}

/// Both sides, one after the other: each of these fills the machine.
pub async fn compare(options: &Options, etcd: Program, ours: Program) -> Result<Vec<Row>> {
    let upstream = measure(options, "etcd", etcd, ETCD_PORTS).await?;
    let ours = measure(options, "quarterdeck", ours, OUR_PORTS).await?;
    let longer = if upstream.len() > ours.len() { &upstream } else { &ours };
    let rows = longer.iter().map(|figure| Row {
        name: figure.name.to_owned(),
        unit: figure.unit,
        less_is_better: figure.less_is_better,
        upstream: named(&upstream, figure.name),
        ours: named(&ours, figure.name),
    });
    Ok(rows.collect())
}

fn named(figures: &[Figure], name: &str) -> Sample {
    let found = figures.iter().find(|figure| figure.name == name);
    found.map_or(Sample::plain(f64::NAN), |figure| figure.sample.clone())
}

#[derive(Clone, Copy)]
enum Part {
    Keys,
    Watchers,
    History,
    Leases,
}

const PARTS: [(&str, Part); 4] = [
    ("keys", Part::Keys),
    ("watchers", Part::Watchers),
    ("history", Part::History),
    ("leases", Part::Leases),
];

async fn measure(options: &Options, side: &'static str, program: Program, ports: u16) -> Result<Vec<Figure>> {
    let mut figures = Figures { side, rows: Vec::new() };
    for (name, part) in PARTS.into_iter().filter(|(name, _)| name.contains(options.only.as_str())) {
        eprintln!("{side}: {name}");
        let cluster = start(options, side, program.clone(), 1, ports).await?;
        let measured = tokio::time::timeout(PART_LIMIT, run(part, &cluster, options, &mut figures)).await;
        cluster.kill(0).await?;
        match measured {
            Ok(Ok(())) => std::fs::remove_dir_all(options.dir.join(side))?,
            Ok(Err(error)) => eprintln!("{side}: {name} failed: {error}"),
            Err(_) => eprintln!("{side}: {name} took longer than {PART_LIMIT:?}"),
        }
    }
    Ok(figures.rows)
}

async fn run(part: Part, cluster: &Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    match part {
        Part::Keys => keys::measure(cluster, figures).await,
        Part::Watchers => watchers::measure(cluster, figures).await,
        Part::History => history::measure(cluster, options, figures).await,
        Part::Leases => leases::measure(cluster, options, figures).await,
    }
}

async fn connections(cluster: &Cluster) -> Result<Vec<Client>> {
    let options = ConnectOptions::new().with_connect_timeout(CONNECT_LIMIT).with_timeout(REQUEST_LIMIT);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Client::connect(cluster.client_urls(), Some(options.clone())).await?);
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

async fn put_writers(mut client: Client, number: u64) -> std::result::Result<(), Error> {
    client.put(format!("quiet/{:04}", number % 1_000), VALUE, None).await.map(drop)
}

/// Writers on their own, for comparison.
async fn quiet(connections: &[Client], options: &Options) -> Result<Sample> {
    let duration = Duration::from_secs(options.seconds);
    Ok(closed_loop(connections, WRITERS, duration, put_writers).await?)
}
