//! The load generator: closed-loop clients over a few connections, and a latency histogram.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Error};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::table::Sample;

/// Longest latency recorded, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Runs `clients` closed loops for `duration`. `operation` gets the loop's client and a number no other call gets.
pub async fn closed_loop<F>(
    connections: &[Client],
    clients: usize,
    duration: Duration,
    operation: impl Fn(Client, u64) -> F + Send + Sync + 'static,
) -> Result<Sample, Error>
where
    F: Future<Output = Result<(), Error>> + Send,
{
    let deadline = Instant::now() + duration;
    closed_loop_while(connections, clients, move || Instant::now() < deadline, operation).await
}

/// The same for as long as `go_on` says so; it is asked before every call.
pub async fn closed_loop_while<F>(
    connections: &[Client],
    clients: usize,
    go_on: impl Fn() -> bool + Clone + Send + 'static,
    operation: impl Fn(Client, u64) -> F + Send + Sync + 'static,
) -> Result<Sample, Error>
where
    F: Future<Output = Result<(), Error>> + Send,
{
    let operation = Arc::new(operation);
    let numbers = Arc::new(AtomicU64::new(0));
    let mut loops = JoinSet::new();
    for index in 0..clients {
        let client = connections[index % connections.len()].clone();
        let (operation, numbers, go_on) = (operation.clone(), numbers.clone(), go_on.clone());
        loops.spawn(async move {
            let mut latencies = histogram();
            while go_on() {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let started = Instant::now();
                operation(client.clone(), number).await?;
                latencies.saturating_record(micros(started.elapsed()));
            }
            Ok::<_, Error>(latencies)
        });
    }
    let started = Instant::now();
    let mut all = histogram();
    while let Some(joined) = loops.join_next().await {
        let latencies = joined.map_err(|error| Error::WatchError(error.to_string()))??;
        all.add(latencies).map_err(|error| Error::WatchError(error.to_string()))?;
    }
    Ok(sample(&all, started.elapsed()))
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
        .expect("the bounds are constants that hdrhistogram allows")
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LATENCY_MAX_US).max(1)
}

pub fn sample(latencies: &Histogram<u64>, elapsed: Duration) -> Sample {
    let ms = |quantile| Some(latencies.value_at_quantile(quantile) as f64 / 1000.0);
    Sample { value: latencies.len() as f64 / elapsed.as_secs_f64(), p50_ms: ms(0.5), p99_ms: ms(0.99) }
}
