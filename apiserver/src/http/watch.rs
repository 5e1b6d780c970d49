//! Watch answers: the initial objects, then events as they come, with bookmarks between, until time or patience ends.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use machinery::status::{FieldError, StatusError};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::encode::EventEncoder;
use crate::cache::resource::{Initial, WatchStart};
use crate::cache::watcher::Closed;
use crate::cache::{Entry, Filter, WatchItem, Watcher};
use crate::metrics::WatchCounters;
use crate::registry::kind::Kind;
use crate::registry::options::Query;
use crate::registry::read::catch_up;
use crate::registry::{Registry, errors};

/// Bookmarks come about once a minute, as upstream's.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Why a watch ends early, in words that clients take for a reason to list again.
const TOO_SLOW: &str = "too old resource version: this watch did not keep up with the changes";
/// Events taken from the queue at once.
const BATCH_LEN_MAX: usize = 512;
/// Small events are sent together up to this size: one TLS record instead of many.
const COALESCE_LEN: usize = 16 * 1024;

/// The longest a watch lasts, whatever is asked for: a year. Clients ask for any number of seconds, and its end must be a
/// moment.
const LASTS_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where very many watch one resource, events that follow each other this closely go to a client together: what a send
/// costs would otherwise leave no time for the writes that make the events. The first after a pause goes at once.
const LINGER: Duration = Duration::from_millis(10);

/// What a watch request asks for besides its filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    pub resource_version: String,
    pub bookmarks: bool,
    pub send_initial: Option<bool>,
    pub timeout_secs: Option<u64>,
}

impl WatchOptions {
    pub fn from_query(query: &Query) -> Result<Self, StatusError> {
        let send_initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
        let matching = query.get("resourceVersionMatch");
        let bookmarks = query.flag("allowWatchBookmarks");
        let path = "resourceVersionMatch";
        let mut errors = Vec::new();
        match (send_initial, matching) {
            (Some(_), None) => {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                errors.push(FieldError::forbidden(&path, why));
            }
            (None, Some(_)) => {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(&path, why));
            }
            _ => {}
        }
        if let Some(other) = matching.filter(|m| *m != "NotOlderThan") {
            errors.push(FieldError::not_supported(&path, other, &["NotOlderThan"]));
        }
        if !errors.is_empty() {
            return Err(StatusError::invalid("meta.k8s.io", "ListOptions", "", errors));
        }
        let timeout_secs =
            query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let resource_version = query.get("resourceVersion").unwrap_or_default().to_owned();
        Ok(Self { resource_version, bookmarks, send_initial, timeout_secs })
    }

    /// The revision to resume after; `None` means the objects come first.
    fn since(&self) -> Result<Option<i64>, StatusError> {
        let initial = self.send_initial.unwrap_or(matches!(self.resource_version.as_str(), "" | "0"));
        if initial {
            return Ok(None);
        }
        let text = if self.resource_version.is_empty() { "0" } else { &self.resource_version };
        let revision = text.parse::<u64>().map_err(|_| {
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            StatusError::invalid("", "", "", vec![FieldError::invalid(&"resourceVersion", text, why)])
        })?;
        Ok(Some(i64::try_from(revision).unwrap_or(i64::MAX)))
    }
}

impl Registry {
    /// Opens a watch once the cache is as new as the request demands.
    pub async fn watch(
        &self,
        kind: &Kind,
        filter: Filter,
        options: &WatchOptions,
    ) -> Result<WatchStart, StatusError> {
        let storage = kind.storage()?;
        let since = options.since()?;
        // The newest state must be in the answer when nothing is said about its age; a revision that another server
        // has shown must have arrived here, or events the client has seen would come again.
        catch_up(storage, if since == Some(0) { "0" } else { &options.resource_version }).await?;
        // `sendInitialEvents=false` without a revision starts at the newest one.
        let since = match since {
            Some(0) => Some(storage.cache.revision()),
            other => other,
        };
        storage.cache.watch(filter, since).map_err(|e| errors::from_cache(&e))
    }
}

enum Phase {
    Objects(std::vec::IntoIter<Arc<Entry>>),
    Events(Vec<WatchItem>),
    InitialEnd,
    Live,
    Ended,
}

struct WatchBody {
    encoder: EventEncoder,
    watcher: Watcher,
    phase: Phase,
    revision: i64,
    options: WatchOptions,
    /// Kept over all waits: setting a timer anew for every event costs as much as sending the event.
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    limits: Limits,
    bookmarks: tokio::time::Interval,
    /// When events were last taken to be sent.
    sent_at: Instant,
    counters: WatchCounters,
}

/// What ends a watch that nobody else ends.
#[derive(Clone)]
pub struct Limits {
    pub deadline: Instant,
    pub shutdown: CancellationToken,
}

impl Limits {
    /// A watch without a time of its own lasts between `min` (`--min-request-timeout`) and twice that, so that watches
    /// that were opened together do not end together.
    pub fn new(options: &WatchOptions, min: Duration, shutdown: CancellationToken) -> Self {
        let chance = || min.min(LASTS_MAX).mul_f64(1.0 + rand::random::<f64>());
        let lasts = options.timeout_secs.map_or_else(chance, Duration::from_secs);
        Self { deadline: Instant::now() + lasts.min(LASTS_MAX), shutdown }
    }

    /// Whether it is time, as far as was known at `now`.
    fn are_over(&self, now: Instant) -> bool {
        now >= self.deadline || self.shutdown.is_cancelled()
    }
}

/// The answer's bytes.
pub fn stream(
    start: WatchStart,
    encoder: EventEncoder,
    options: WatchOptions,
    counters: WatchCounters,
    limits: Limits,
) -> impl Stream<Item = Bytes> + Send {
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let phase = match start.initial {
        Initial::Objects(entries) => Phase::Objects(entries.into_iter()),
        Initial::Events(items) => Phase::Events(items),
        Initial::Nothing => Phase::Live,
    };
    let Limits { deadline, shutdown } = limits.clone();
    let end = Box::pin(async move {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let revision = start.revision;
    let state = WatchBody {
        encoder,
        watcher: start.watcher,
        phase,
        revision,
        options,
        end,
        limits,
        bookmarks,
        sent_at: Instant::now(),
        counters,
    };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            let bytes = state.step().await?;
            if !bytes.is_empty() {
                return Some((bytes, state));
            }
        }
    })
}

impl WatchBody {
    /// The next bytes; empty when a phase had none, `None` at the end.
    async fn step(&mut self) -> Option<Bytes> {
        match &mut self.phase {
            Phase::Objects(entries) => {
                let mut out = BytesMut::new();
                while out.len() < COALESCE_LEN {
                    let Some(entry) = entries.next() else {
                        self.phase = Phase::InitialEnd;
                        break;
                    };
                    out.extend_from_slice(&self.encoder.initial(&entry));
                }
                Some(out.freeze())
            }
            Phase::InitialEnd => {
                self.phase = Phase::Live;
                if self.options.send_initial == Some(true) && self.options.bookmarks {
                    return Some(self.encoder.bookmark(self.revision, true));
                }
                Some(Bytes::new())
            }
            Phase::Events(items) => {
                let items = std::mem::take(items);
                self.phase = Phase::Live;
                Some(self.encode(&items))
            }
            Phase::Live => {
                self.linger().await;
                self.live().await
            }
            Phase::Ended => None,
        }
    }

    /// Lets events gather, once a send has just been made.
    async fn linger(&mut self) {
        if self.watcher.is_crowded()
            && let Some(rest) = LINGER.checked_sub(self.sent_at.elapsed())
        {
            tokio::time::sleep(rest).await;
        }
    }

    async fn live(&mut self) -> Option<Bytes> {
        // Where events never cease, the select below would not look at the end.
        if self.limits.are_over(self.sent_at) {
            return self.last_bookmark();
        }
        let mut items = Vec::new();
        tokio::select! {
            biased;
            result = self.watcher.next_batch(&mut items, BATCH_LEN_MAX) => match result {
                Ok(()) => {
                    self.sent_at = Instant::now();
                    Some(self.encode(&items))
                }
                Err(Closed::TooSlow) => {
                    self.phase = Phase::Ended;
                    Some(self.encoder.status("ERROR", &errors::expired(TOO_SLOW).to_value()))
                }
                // The client lists again, or resumes from the revision it has seen.
                Err(Closed::Restarted) => None,
            },
            _ = self.bookmarks.tick(), if self.options.bookmarks => {
                Some(self.watcher.bookmark().map_or_else(Bytes::new, |r| self.encoder.bookmark(r, false)))
            }
            () = &mut self.end => self.last_bookmark(),
        }
    }

    /// Before the end, how far the client has got, so that it can resume without a list.
    fn last_bookmark(&mut self) -> Option<Bytes> {
        self.phase = Phase::Ended;
        if !self.options.bookmarks {
            return None;
        }
        self.watcher.bookmark().map(|r| self.encoder.bookmark(r, false))
    }

    fn encode(&self, items: &[WatchItem]) -> Bytes {
        if let [item] = items {
            let bytes = self.encoder.event(&item.event, item.event_type);
            self.counters.sent(std::iter::once(bytes.len()));
            return bytes;
        }
        let room: usize = items.iter().map(|item| item.event.line.len()).sum();
        let mut out = BytesMut::with_capacity(room);
        let sizes = items.iter().map(|item| {
            let bytes = self.encoder.event(&item.event, item.event_type);
            out.extend_from_slice(&bytes);
            bytes.len()
        });
        self.counters.sent(sizes);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_watch_has_an_end() {
        let day = Duration::from_secs(24 * 3600);
        let check = |asked: &str, min: Duration, least: Duration, most: Duration| {
            let options = WatchOptions::from_query(&Query::parse(asked)).expect("options");
            let now = Instant::now();
            let deadline = Limits::new(&options, min, CancellationToken::new()).deadline;
            assert!(deadline >= now + least && deadline <= Instant::now() + most, "{asked} {min:?}");
        };
        check("timeoutSeconds=86400", Duration::ZERO, day, day);
        check("", day, day, 2 * day);
        check("timeoutSeconds=0", day, day, 2 * day);
        check("timeoutSeconds=-1", day, day, 2 * day);
        check(&format!("timeoutSeconds={}", i64::MAX), day, LASTS_MAX, LASTS_MAX);
        check("", Duration::MAX, LASTS_MAX, LASTS_MAX);
    }
}
