//! Many watchers on one namespace, a few writers into it: events received in the time, and their delay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::load::{Until, closed_loop};
use super::objects;
use crate::control_plane::Result;
use crate::control_plane::http::Connection;
use crate::store::load::{histogram, micros, sample};
use crate::table::Sample;

/// Writers: enough that the watchers, not they, are the bottleneck.
const WRITERS: usize = 50;
/// One watcher in this many measures delays; the others only count, which costs the machine less.
const TIMED_EVERY: usize = 50;
/// Before the time in a watched object.
const STAMP: &str = "\"stamp\":\"";

/// What came of it.
pub struct Counted {
    pub events: Sample,
    pub writes: Sample,
    /// Watches that the server ended.
    pub cut: usize,
}

#[derive(Default)]
struct Seen {
    events: u64,
    delays: Option<Histogram<u64>>,
    cut: bool,
}

/// Opens `watchers` watches, writes for `duration`, and counts what arrived by then.
///
/// # Errors
/// When a watch cannot be opened or a write fails.
pub async fn run(address: SocketAddr, watchers: usize, duration: Duration) -> Result<Counted> {
    let mut connection = Connection::open(address).await?;
    let list = connection.read(&objects::watched_path("")).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
    let path = objects::watched_path(&format!("?watch=true&resourceVersion={revision}"));
    let mut open = Vec::with_capacity(watchers);
    for _ in 0..watchers {
        open.push(Connection::open(address).await?.follow(&path).await?);
    }
    let epoch = Instant::now();
    let mut readers = JoinSet::new();
    for (index, (connection, body)) in open.into_iter().enumerate() {
        let timed = index % TIMED_EVERY == 0;
        readers.spawn(async move {
            let seen = read(body, epoch, epoch + duration, timed).await;
            drop(connection);
            seen
        });
    }
    let stamped = Arc::new(move |number| objects::patch_watched(number, micros(epoch.elapsed())));
    let writes = closed_loop(address, WRITERS, Until::Elapsed(duration), move |n| stamped(n)).await?;
    let (mut events, mut cut, mut delays) = (0, 0, histogram());
    while let Some(joined) = readers.join_next().await {
        let seen = joined?;
        events += seen.events;
        cut += usize::from(seen.cut);
        seen.delays.map_or(Ok(()), |more| delays.add(more))?;
    }
    let delays = sample(&delays, duration);
    Ok(Counted { events: Sample { value: events as f64 / duration.as_secs_f64(), ..delays }, writes, cut })
}

/// Counts one watcher's events until the deadline.
async fn read(mut body: Incoming, epoch: Instant, deadline: Instant, timed: bool) -> Seen {
    let mut seen = Seen { delays: timed.then(histogram), ..Seen::default() };
    while let Ok(frame) = tokio::time::timeout_at(deadline.into(), body.frame()).await {
        let Some(Ok(frame)) = frame else {
            seen.cut = true;
            break;
        };
        let Some(bytes) = frame.data_ref() else { continue };
        // Every event is one line.
        seen.events += memchr::memchr_iter(b'\n', bytes).count() as u64;
        if let Some(delays) = &mut seen.delays {
            record(delays, bytes, micros(epoch.elapsed()));
        }
    }
    seen
}

/// The delay of every event whose stamp lies whole in these bytes.
fn record(delays: &mut Histogram<u64>, bytes: &Bytes, now_us: u64) {
    let finder = memchr::memmem::Finder::new(STAMP);
    for at in finder.find_iter(bytes) {
        let digits = bytes[at + STAMP.len()..].iter().take_while(|b| b.is_ascii_digit());
        let stamp = digits.fold(0u64, |n, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0')));
        if stamp > 0 && stamp <= now_us {
            delays.saturating_record((now_us - stamp).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_from_the_stamps() {
        let mut delays = histogram();
        record(&mut delays, &Bytes::from_static(b"{\"stamp\":\"100\"}\n{\"stamp\":\"250\"}\n{\"sta"), 300);
        assert_eq!((delays.len(), delays.min(), delays.max()), (2, 50, 200));
    }
}
