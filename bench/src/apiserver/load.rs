//! Closed loops over connections of their own, with a latency histogram.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::control_plane::Result;
use crate::control_plane::http::{Call, Connection};
use crate::store::load::{histogram, micros, sample};
use crate::table::Sample;

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Elapsed(Duration),
    /// This many operations have been started.
    Count(u64),
}

/// Runs `clients` loops; each request is made by `call` from a number that no other request gets.
///
/// # Errors
/// The first request that fails.
pub async fn closed_loop(
    address: SocketAddr,
    clients: usize,
    until: Until,
    call: impl Fn(u64) -> Call + Send + Sync + 'static,
) -> Result<Sample> {
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(Connection::open(address).await?);
    }
    let call = Arc::new(call);
    let numbers = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for mut connection in connections {
        let (call, numbers) = (call.clone(), numbers.clone());
        loops.spawn(async move {
            let mut latencies = histogram();
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let ended = match until {
                    Until::Elapsed(limit) => started.elapsed() >= limit,
                    Until::Count(limit) => number >= limit,
                };
                if ended {
                    return Ok(latencies);
                }
                let begun = Instant::now();
                connection.call(call(number)).await?;
                latencies.saturating_record(micros(begun.elapsed()));
            }
        });
    }
    let mut all = histogram();
    while let Some(joined) = loops.join_next().await {
        let latencies: Result<_> = joined?;
        all.add(latencies?)?;
    }
    Ok(sample(&all, started.elapsed()))
}
