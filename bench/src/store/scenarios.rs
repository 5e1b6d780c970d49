//! The loads, by name. Keys and values have the sizes Kubernetes gives them.

use std::time::{Duration, Instant};

use chaos::cluster::Cluster;
use etcd_client::{Client, Compare, CompareOp, Error, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::task::JoinSet;

use super::load::{closed_loop, histogram, micros, sample};
use crate::table::Sample;

const VALUE: [u8; 1024] = [b'v'; 1024];
/// Connections, spread over all members.
const CONNECTIONS: usize = 12;
const RANGE_KEYS: u64 = 1_000;
const WATCHERS: usize = 100;

/// One load.
pub struct Scenario {
    pub name: &'static str,
    clients: usize,
    load: Load,
}

enum Load {
    Put,
    KubernetesTxn,
    Get { serializable: bool },
    Range,
    Watch,
    LeaseAndPut,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "put, 1 client", clients: 1, load: Load::Put },
    Scenario { name: "put, 100 clients", clients: 100, load: Load::Put },
    Scenario { name: "put, 1000 clients", clients: 1000, load: Load::Put },
    Scenario { name: "Kubernetes-shaped txn, 100 clients", clients: 100, load: Load::KubernetesTxn },
    Scenario { name: "linearizable get, 100 clients", clients: 100, load: Load::Get { serializable: false } },
    Scenario { name: "serializable get, 100 clients", clients: 100, load: Load::Get { serializable: true } },
    Scenario { name: "range of 1000 keys, 10 clients", clients: 10, load: Load::Range },
    Scenario { name: "watch events, 100 watchers", clients: 20, load: Load::Watch },
    Scenario { name: "lease grant and put, 100 clients", clients: 100, load: Load::LeaseAndPut },
];

impl Scenario {
    pub async fn run(
        &self,
        cluster: &Cluster,
        duration: Duration,
    ) -> Result<Sample, Box<dyn std::error::Error>> {
        let mut connections = Vec::new();
        for at in 0..CONNECTIONS {
            connections.push(cluster.client(at % cluster.len()).await?);
        }
        let run = |operation| closed_loop(&connections, self.clients, duration, operation);
        Ok(match self.load {
            Load::Put => run(put as Operation).await?,
            Load::KubernetesTxn => run(kubernetes_txn as Operation).await?,
            Load::Get { serializable } => {
                fill(&connections[0], "get/", RANGE_KEYS).await?;
                run(if serializable { get_serializable as Operation } else { get as Operation }).await?
            }
            Load::Range => {
                fill(&connections[0], "range/", RANGE_KEYS).await?;
                run(range as Operation).await?
            }
            Load::LeaseAndPut => run(lease_and_put as Operation).await?,
            Load::Watch => watch(&connections, self.clients, duration).await?,
        })
    }
}

type Pending = std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
type Operation = fn(Client, u64) -> Pending;

fn put(mut client: Client, number: u64) -> Pending {
    Box::pin(async move { client.put(format!("put/{:08}", number % 100_000), VALUE, None).await.map(drop) })
}

/// A create guarded by absence, as the API server writes objects; every fourth is an update by mod-revision.
fn kubernetes_txn(mut client: Client, number: u64) -> Pending {
    Box::pin(async move {
        let key = format!("/registry/configmaps/bench/{number:010}");
        let txn = Txn::new()
            .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), VALUE, None)])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let created = client.txn(txn).await?.header().map_or(0, etcd_client::ResponseHeader::revision);
        if number.is_multiple_of(4) {
            let txn = Txn::new()
                .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, created)])
                .and_then([TxnOp::put(key.as_str(), VALUE, None)])
                .or_else([TxnOp::get(key.as_str(), None)]);
            client.txn(txn).await?;
        }
        Ok(())
    })
}

fn get(mut client: Client, number: u64) -> Pending {
    Box::pin(async move { client.get(format!("get/{:08}", number % RANGE_KEYS), None).await.map(drop) })
}

fn get_serializable(mut client: Client, number: u64) -> Pending {
    let options = GetOptions::new().with_serializable();
    Box::pin(
        async move { client.get(format!("get/{:08}", number % RANGE_KEYS), Some(options)).await.map(drop) },
    )
}

fn range(mut client: Client, _: u64) -> Pending {
    Box::pin(async move { client.get("range/", Some(GetOptions::new().with_prefix())).await.map(drop) })
}

fn lease_and_put(mut client: Client, number: u64) -> Pending {
    Box::pin(async move {
        let lease = client.lease_grant(60, None).await?.id();
        let options = PutOptions::new().with_lease(lease);
        client.put(format!("lease/{:08}", number % 100_000), "x", Some(options)).await.map(drop)
    })
}

async fn fill(client: &Client, prefix: &str, keys: u64) -> Result<(), Error> {
    let mut client = client.clone();
    for first in (0..keys).step_by(100) {
        let puts: Vec<TxnOp> = (first..first + 100)
            .map(|number| TxnOp::put(format!("{prefix}{number:08}"), VALUE, None))
            .collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// Writers put under one prefix that all watchers watch; what counts is events received, and their delay.
async fn watch(connections: &[Client], writers: usize, duration: Duration) -> Result<Sample, Error> {
    let epoch = Instant::now();
    let deadline = epoch + duration;
    let mut watchers = JoinSet::new();
    for index in 0..WATCHERS {
        let mut client = connections[index % connections.len()].clone();
        let mut stream = client.watch("watch/", Some(WatchOptions::new().with_prefix())).await?;
        watchers.spawn(async move {
            let mut delays = histogram();
            while let Ok(Ok(Some(response))) =
                tokio::time::timeout_at(deadline.into(), stream.message()).await
            {
                let now = micros(epoch.elapsed());
                for event in response.events() {
                    let sent =
                        event.kv().and_then(|kv| kv.value_str().ok()?.parse::<u64>().ok()).unwrap_or(now);
                    delays.saturating_record(now.saturating_sub(sent).max(1));
                }
            }
            delays
        });
    }
    let written = closed_loop(connections, writers, duration, move |mut client, number| async move {
        let stamp = micros(epoch.elapsed()).to_string();
        client.put(format!("watch/{:04}", number % 1_000), stamp, None).await.map(drop)
    });
    written.await?;
    let mut all = histogram();
    while let Some(joined) = watchers.join_next().await {
        let delays = joined.map_err(|error| Error::WatchError(error.to_string()))?;
        all.add(delays).map_err(|error| Error::WatchError(error.to_string()))?;
    }
    Ok(sample(&all, duration))
}
