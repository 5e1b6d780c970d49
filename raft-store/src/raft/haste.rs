//! When followers must hear of a commit at once, and when it may wait for the next entry.
//!
//! Each write costs a follower two messages, the entry and, once a majority has it, the commit; and two answers. Where
//! writes follow each other closely, as those of one client do that waits for each, the commit goes with the next entry
//! instead, which comes before anybody could miss it. Nothing depends on when a follower hears of a commit but how soon
//! it shows it. A lone write's commit goes at once, and so does any while a follower waits for what it asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt};
use openraft::{OptionalSend, raft::AppendEntriesRequest};
use tokio::time::Instant;

use super::types::TypeConfig;

/// How long a commit waits for an entry.
const HOLD: Duration = Duration::from_millis(1);
/// Two entries closer than this follow each other closely.
const CLOSE: Duration = Duration::from_millis(3);
/// How long after a follower's question no commit waits, in microseconds.
const PATIENCE_MICROS: u64 = 20_000;

/// Whether a follower waits for something. Clones share it.
#[derive(Clone, Debug)]
pub struct Haste {
    started: Instant,
    asked_at_micros: Arc<AtomicU64>,
}

impl Default for Haste {
    fn default() -> Self {
        Self { started: Instant::now(), asked_at_micros: Arc::default() }
    }
}

impl Haste {
    fn now_micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A follower has asked for something that it can answer only once it has heard of a commit.
    pub fn note(&self) {
        self.asked_at_micros.store(self.now_micros().max(1), Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        let asked = self.asked_at_micros.load(Ordering::Relaxed);
        asked > 0 && self.now_micros().saturating_sub(asked) < PATIENCE_MICROS
    }
}

type Request = AppendEntriesRequest<TypeConfig>;

struct Merging<S> {
    input: S,
    haste: Haste,
    close: Duration,
    is_over: bool,
    /// When the last request with entries went out, and the time between it and the one before.
    last_entries: Option<(Instant, Duration)>,
}

impl<S: Stream<Item = Request> + Unpin> Merging<S> {
    fn note_entries(&mut self) {
        let now = Instant::now();
        let gap = self.last_entries.map_or(Duration::MAX, |(before, _)| now - before);
        self.last_entries = Some((now, gap));
    }

    fn may_hold(&self) -> bool {
        let close = self.last_entries.is_some_and(|(at, gap)| gap < self.close && at.elapsed() < self.close);
        close && !self.haste.is_on()
    }

    async fn next(&mut self) -> Option<Request> {
        if self.is_over {
            return None;
        }
        let Some(mut request) = self.input.next().await else {
            self.is_over = true;
            return None;
        };
        // A later request carries the commit of the one held, and its answer stands for both: it says how far the log
        // is on the follower's disk.
        while request.entries.is_empty() && self.may_hold() {
            match tokio::time::timeout(HOLD, self.input.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) => {
                    self.is_over = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if !request.entries.is_empty() {
            self.note_entries();
        }
        Some(request)
    }
}

/// The requests of `input`, fewer where one can stand for two.
pub fn merged<S>(input: S, haste: Haste) -> impl Stream<Item = Request> + OptionalSend + 'static
where
    S: Stream<Item = Request> + OptionalSend + Unpin + 'static,
{
    merged_within(input, haste, CLOSE)
}

fn merged_within<S>(
    input: S,
    haste: Haste,
    close: Duration,
) -> impl Stream<Item = Request> + OptionalSend + 'static
where
    S: Stream<Item = Request> + OptionalSend + Unpin + 'static,
{
    let merging = Merging { input, haste, close, is_over: false, last_entries: None };
    futures::stream::unfold(merging, async |mut merging| merging.next().await.map(|next| (next, merging)))
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, entry::RaftEntry};

    use super::*;
    use crate::raft::types::{Entry, LogId, Vote};

    fn request(entry: Option<u64>, commit: u64) -> Request {
        let entry = entry.map(|index| Entry::new(LogId::new_term_index(1, index), EntryPayload::Blank));
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: entry.into_iter().collect(),
            leader_commit: Some(LogId::new_term_index(1, commit)),
        }
    }

    /// Entries and commit of what is sent of one client's writes, each of which waits for the one before.
    async fn sent(haste: Haste, close: Duration) -> Vec<(usize, u64)> {
        let writes = (1..=3).flat_map(|index| [request(Some(index), index - 1), request(None, index)]);
        let requests = futures::stream::iter(writes.collect::<Vec<_>>());
        let sent: Vec<Request> = merged_within(requests, haste, close).collect().await;
        let commit = |request: &Request| request.leader_commit.map_or(0, |log_id| log_id.index());
        sent.iter().map(|request| (request.entries.len(), commit(request))).collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_commit_goes_with_the_next_entry_and_the_last_one_alone() {
        // The first pair cannot know that others follow.
        assert_eq!(sent(Haste::default(), HOUR).await, [(1, 0), (0, 1), (1, 1), (1, 2), (0, 3)]);
    }

    #[tokio::test]
    async fn nothing_is_held_after_a_lone_write_or_while_a_follower_waits() {
        assert_eq!(sent(Haste::default(), Duration::ZERO).await.len(), 6);
        let haste = Haste::default();
        haste.asked_at_micros.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(sent(haste, HOUR).await.len(), 6);
    }
}
