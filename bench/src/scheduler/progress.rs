//! Follows a load of pods in a watch until all of them are bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;

use crate::control_plane::Result;
use crate::control_plane::http::Connection;
use crate::store::load::{histogram, micros};

/// The part of a watch event that matters here.
#[derive(Deserialize)]
struct Event {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(rename = "nodeName", default)]
    node_name: String,
}

/// When each pod of a load was sent.
pub struct Sent {
    epoch: Instant,
    /// Microseconds from the epoch, by the pod's number.
    at: Vec<AtomicU64>,
}

impl Sent {
    pub fn new(count: u64) -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), at: (0..count).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Pod `number` is sent now.
    pub fn mark(&self, number: u64) {
        self.at[number as usize].store(micros(self.epoch.elapsed()), Ordering::Relaxed);
    }
}

/// What was seen of a load.
pub struct Seen {
    /// From a pod's sending until it was seen bound.
    pub latencies: Histogram<u64>,
    /// From the epoch until the last of them was.
    pub last: Duration,
}

/// Which pods of a load have been seen bound, and how long each took.
pub struct Progress {
    prefix: &'static str,
    path: String,
    sent: Arc<Sent>,
    bound: Vec<bool>,
    latencies: Histogram<u64>,
    last: Duration,
}

impl Progress {
    /// Of the pods `prefix-…` in the collection at `path`.
    pub fn new(prefix: &'static str, path: String, sent: Arc<Sent>) -> Self {
        let bound = vec![false; sent.at.len()];
        Self { prefix, path, sent, bound, latencies: histogram(), last: Duration::ZERO }
    }

    fn is_complete(&self) -> bool {
        self.latencies.len() >= self.bound.len() as u64
    }

    /// Watches until every pod has been seen bound, or `limit` has passed since the load began. A server that is short
    /// of time cuts watches off; they are then opened again where they ended, as every informer does.
    ///
    /// # Errors
    /// When the watch is refused or cannot be read.
    pub async fn follow(
        mut self,
        address: SocketAddr,
        mut revision: String,
        limit: Duration,
    ) -> Result<Seen> {
        let deadline = tokio::time::Instant::from_std(self.sent.epoch + limit);
        while !self.is_complete() {
            let path = format!("{}?watch=true&resourceVersion={revision}", self.path);
            let (connection, body) = Connection::open(address).await?.follow(&path).await?;
            match tokio::time::timeout_at(deadline, self.read(body, &mut revision)).await {
                Ok(read) => read?,
                Err(_) => break,
            }
            drop(connection);
        }
        Ok(Seen { latencies: self.latencies, last: self.last })
    }

    /// Reads one watch to its end, or until there is nothing to wait for.
    async fn read(&mut self, mut body: Incoming, revision: &mut String) -> Result<()> {
        let mut rest: Vec<u8> = Vec::new();
        while !self.is_complete() {
            let Some(frame) = body.frame().await else { return Ok(()) };
            let frame = frame?;
            let Some(bytes) = frame.data_ref() else { continue };
            let now = self.sent.epoch.elapsed();
            rest.extend_from_slice(bytes);
            let Some(end) = memchr::memrchr(b'\n', &rest) else { continue };
            for line in rest[..end].split(|b| *b == b'\n') {
                let event: Event = serde_json::from_slice(line)
                    .map_err(|error| format!("a watch event cannot be read: {error}"))?;
                revision.clone_from(&event.object.metadata.resource_version);
                self.take(&event.object, now);
            }
            rest.drain(..=end);
        }
        Ok(())
    }

    fn take(&mut self, pod: &Object, now: Duration) {
        let number = pod.metadata.name.strip_prefix(self.prefix).and_then(|n| n[1..].parse().ok());
        let Some(number) = number.filter(|n: &usize| *n < self.bound.len()) else { return };
        if !pod.spec.node_name.is_empty() && !std::mem::replace(&mut self.bound[number], true) {
            let begun = self.sent.at[number].load(Ordering::Relaxed);
            self.latencies.saturating_record(micros(now).saturating_sub(begun).max(1));
            self.last = now;
        }
    }
}
