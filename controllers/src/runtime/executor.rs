//! The shell that carries plans out: one place where requests are made, failures told apart, marks left and events
//! recorded.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;

use super::freshness::Mark;
use super::key::Key;
use super::plan::{Action, Answer, Ask, Batch, Failure, Note, Pace, Plan, Verb};
use super::store::AnyStore;
use super::stores::Stores;

/// Writes of one batch that are under way at a time: enough to keep an API server on the same machine busy, few
/// enough not to starve other loops.
pub const PARALLEL_MAX: usize = 32;

/// Makes requests. Implemented by the real client and by the tests' model of an API server.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    /// Carries out one write and returns the answer's body.
    async fn write(&self, action: &Action) -> Result<Value, Failure>;
    /// Answers one question.
    async fn ask(&self, ask: &Ask) -> Answer;
    /// Records an event; never blocks and never fails.
    fn record(&self, note: Note);
}

/// A write that happened, as the freshness rule needs it.
pub struct Written {
    /// The cache that will show it.
    pub store: Arc<dyn AnyStore>,
    /// What it must show.
    pub mark: Mark,
}

/// Carries out a plan. Every acknowledged write is reported to `written`, also when a later one fails.
pub async fn execute(
    api: &dyn Api,
    stores: &Stores,
    plan: Plan,
    written: &mut (dyn FnMut(Written) + Send),
) -> Result<(), Failure> {
    plan.notes.into_iter().for_each(|note| api.record(note));
    for batch in plan.batches {
        run_batch(api, stores, batch, written).await?;
    }
    plan.problem.map_or(Ok(()), Err)
}

async fn run_batch(
    api: &dyn Api,
    stores: &Stores,
    batch: Batch,
    written: &mut (dyn FnMut(Written) + Send),
) -> Result<(), Failure> {
    let (mut width, growing) = match batch.pace {
        Pace::Serial => (1, false),
        Pace::SlowStart => (1, true),
        // One wave: a failure must not keep the rest from being tried.
        Pace::Parallel => (batch.actions.len(), false),
    };
    let mut rest = batch.actions.as_slice();
    while !rest.is_empty() {
        let (wave, after) = rest.split_at(width.min(rest.len()));
        rest = after;
        // Ends only when the whole wave has: a write under way must not be forgotten because another failed.
        let writes: Vec<BoxFuture<'_, (&Action, Result<Value, Failure>)>> =
            wave.iter().map(|action| async move { (action, run_one(api, action).await) }.boxed()).collect();
        let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(PARALLEL_MAX).collect().await;
        let mut failed = None;
        for (action, outcome) in outcomes {
            match outcome {
                Ok(body) => mark_of(stores, action, &body).into_iter().for_each(&mut *written),
                Err(failure) => failed = Some(failure),
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        if growing {
            width *= 2;
        }
    }
    Ok(())
}

async fn run_one(api: &dyn Api, action: &Action) -> Result<Value, Failure> {
    match api.write(action).await {
        Ok(body) => {
            if let Some(note) = &action.on_success {
                let name = body["metadata"]["name"].as_str().unwrap_or(&action.name);
                api.record(Note { message: note.message.replace("{name}", name), ..note.clone() });
            }
            Ok(body)
        }
        Err(failure) if action.tolerate.contains(&failure.code) => Ok(Value::Null),
        Err(failure) => {
            tracing::debug!(%action, %failure, "write failed");
            if let Some(note) = action.on_failure.as_ref().filter(|_| !failure.is_namespace_terminating()) {
                api.record(Note {
                    message: note.message.replace("{error}", &failure.message),
                    ..note.clone()
                });
            }
            let creating = matches!(action.verb, Verb::Create { subresource: "", .. });
            Err(Failure { creating, ..failure })
        }
    }
}

/// What the cache of the action's resource will show once it has caught up; nothing when no one caches it.
pub fn mark_of(stores: &Stores, action: &Action, body: &Value) -> Option<Written> {
    let store = stores.find(&action.gvr)?;
    let lists_begun = store.observed().lists_begun;
    let revision = body["metadata"]["resourceVersion"].as_str().and_then(|rv| rv.parse().ok());
    let is_object = body["kind"].as_str() == Some(&action.gvr.kind);
    let mark = match (&action.verb, revision) {
        (Verb::Delete { uid: Some(uid), .. }, _) => {
            Mark::Gone { key: Key::new(&action.namespace, &action.name), uid: uid.clone() }
        }
        (_, Some(revision)) if is_object => Mark::Revision { revision, lists_begun },
        _ => return None,
    };
    Some(Written { store, mark })
}
