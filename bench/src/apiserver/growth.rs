//! What a watch event costs the server where its kind has few objects, and where it has many. Processor time is read, so
//! that it does not matter how fast readers and writers are.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::load::{Until, closed_loop};
use super::objects;
use crate::control_plane::http::Connection;
use crate::control_plane::{ControlPlane, Result};

const WATCHERS: usize = 100;
const WRITERS: usize = 4;
/// So many that a tick of the kernel's clock, 10 ms, is a small part of what they cost.
const WRITES: u64 = 4000;
/// Longest wait for the last event.
const PATIENCE: Duration = Duration::from_secs(60);

/// Microseconds of processor time an event, over all of the side's processes; what the writes cost is in it.
///
/// # Errors
/// When a watch cannot be opened or ends, or a write fails.
pub async fn micros_an_event(plane: &ControlPlane) -> Result<f64> {
    let list = Connection::open(plane.address).await?.read(&objects::watched_path("")).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
    let path = objects::watched_path(&format!("?watch=true&resourceVersion={revision}"));
    let mut readers = JoinSet::new();
    for _ in 0..WATCHERS {
        let (connection, body) = Connection::open(plane.address).await?.follow(&path).await?;
        readers.spawn(async move {
            let read = tokio::time::timeout(PATIENCE, read(body)).await;
            drop(connection);
            read.unwrap_or(0)
        });
    }
    let before = used(plane)?;
    closed_loop(plane.address, WRITERS, Until::Count(WRITES), |n| objects::patch_watched(n, n + 1)).await?;
    let mut events = 0;
    while let Some(seen) = readers.join_next().await {
        events += seen?;
    }
    if events != WRITES * WATCHERS as u64 {
        return Err(format!("{events} events arrived of {WRITES} writes to {WATCHERS} watchers").into());
    }
    Ok((used(plane)? - before).as_secs_f64() * 1e6 / events as f64)
}

fn used(plane: &ControlPlane) -> Result<Duration> {
    Ok(plane.cpu()?.into_iter().map(|(_, time)| time).sum())
}

/// Counts events, one a line, until there is one for each write.
async fn read(mut body: Incoming) -> u64 {
    let mut events = 0;
    while events < WRITES
        && let Some(Ok(frame)) = body.frame().await
    {
        let lines = frame.data_ref().map_or(0, |bytes| memchr::memchr_iter(b'\n', bytes).count());
        events += lines as u64;
    }
    events
}
