//! One bounded step of reading history for watchers that are behind.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use prost::Message;
use proto::mvccpb::Event;

use super::{
    event::WatchEvent,
    matcher::{Matcher, WatcherId},
};
use crate::{
    error::Error,
    mvcc::{
        history::{events_between, key_at},
        keys::KeyRange,
    },
    storage::View,
};

/// Events one step may look at, so that a step stays short and its memory small.
const STEP_EVENTS_MAX: usize = 1_024;
/// Bytes one step may collect: far below the 4 MiB that a gRPC client takes in one message if it is told nothing else.
const STEP_BYTES_MAX: usize = 1 << 20;

/// A watcher that wants history: its handle, range, first wanted revision, and whether it wants old values.
pub type Wanted = (WatcherId, KeyRange, i64, bool);

/// What a step found.
pub struct Step {
    /// Events for each watcher, in order.
    pub events: HashMap<WatcherId, Vec<Arc<WatchEvent>>>,
    /// Everything up to this revision has been looked at.
    pub upto: i64,
}

/// Reads history from the earliest wanted revision on, for all watchers at once. Always whole revisions.
pub fn step(view: &View, wanted: &[Wanted]) -> Result<Step, Error> {
    let from = wanted.iter().map(|(_, _, next, _)| *next).min().unwrap_or(view.revision + 1);
    let mut matcher = Matcher::default();
    let mut need_prev = false;
    for (id, range, _, prev_kv) in wanted {
        matcher.insert(range, *id);
        need_prev |= prev_kv;
    }
    let mut step = Step { events: HashMap::new(), upto: view.revision };
    let (mut seen, mut bytes, mut last) = (0, 0, from - 1);
    events_between(view, from, view.revision, &mut |position, row| {
        if position.revision > last && (seen >= STEP_EVENTS_MAX || bytes >= STEP_BYTES_MAX) {
            step.upto = last;
            return Ok(ControlFlow::Break(()));
        }
        last = position.revision;
        seen += 1;
        let mut event: Event = crate::mvcc::history::decode_event(row)?;
        let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        let mut groups = Vec::new();
        matcher.matching(&key, &mut |group| groups.push(group));
        if groups.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if need_prev {
            event.prev_kv = key_at(view, &key, position.revision - 1)?;
        }
        bytes += row.len() + event.prev_kv.as_ref().map_or(0, Message::encoded_len);
        let event = WatchEvent::new(event);
        for id in groups.iter().flat_map(|group| matcher.members(*group)) {
            step.events.entry(*id).or_default().push(event.clone());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(step)
}
