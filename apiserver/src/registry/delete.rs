//! The verbs delete and deletecollection.

use std::sync::Arc;

use futures::StreamExt as _;
use machinery::status::{Reason, StatusError};
use serde_json::{Value, json};

use super::create::stored_bytes;
use super::delete_rules::{Deletion, check_preconditions, decide, last_state};
use super::kind::Kind;
use super::options::DeleteOptions;
use super::update::{Current, Target, served};
use super::{Answer, Registry, errors, meta};
use crate::cache::{Entry, Filter};
use crate::contract::{Admission, Operation, RequestContext};
use crate::crd::cleanup;
use crate::storage::keys::put_if;

/// Attempts against newer and newer objects.
const ATTEMPTS_MAX: usize = 16;

/// What a deletion came to.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// It is gone; this is what the answer holds.
    Gone(Answer),
    /// It lives on until finalizers and grace are over.
    Marked(Answer),
}

enum Step {
    Done(Deleted),
    Stale(Option<Arc<Entry>>),
}

impl Registry {
    /// Deletes one object.
    pub async fn delete(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, StatusError> {
        let storage = kind.storage()?;
        storage.cache.ready().await.map_err(|e| errors::from_cache(&e))?;
        let key = storage.object_key(target.namespace, target.name);
        let mut current = Current { entry: storage.cache.get(&key), fresh: false };
        if current.entry.is_none() {
            current = self.read_fresh(storage, &key).await?;
        }
        for _ in 0..ATTEMPTS_MAX {
            let Some(entry) = &current.entry else {
                return Err(StatusError::not_found(&kind.group, &kind.resource, target.name));
            };
            match self.delete_step(ctx, kind, entry, options).await {
                Ok(Step::Done(deleted)) => return Ok(deleted),
                Ok(Step::Stale(entry)) => current = Current { entry, fresh: true },
                Err(error) if current.fresh => return Err(error),
                Err(error) => {
                    let seen = entry.revision;
                    current = self.read_fresh(storage, &key).await?;
                    if current.entry.as_ref().map(|e| e.revision) == Some(seen) {
                        return Err(error);
                    }
                }
            }
        }
        Err(StatusError::conflict_modified(&kind.group, &kind.resource, target.name))
    }

    async fn delete_step(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        entry: &Arc<Entry>,
        options: &DeleteOptions,
    ) -> Result<Step, StatusError> {
        let storage = kind.storage()?;
        let old = served(kind, entry);
        check_preconditions(&kind.group, &kind.kind, &old, options)?;
        self.admit_deletion(ctx, kind, &old, options).await?;
        let hooks = kind.hooks("");
        let grace =
            hooks.grace_period(ctx, &old, options.grace_period_secs.map(|s| if s < 0 { 1 } else { s }));
        let mut decision = decide(&old, options, kind.facts.propagation, grace, ctx.now);
        if kind.group.is_empty() && kind.resource == "namespaces" {
            decision = namespace_deletion(decision, &old, ctx.now);
        }
        if kind.group == crate::crd::GROUP && kind.resource == crate::crd::RESOURCE {
            decision = definition_deletion(decision, &old, ctx.now);
        }
        match decision {
            Deletion::Pending => Ok(Step::Done(Deleted::Marked(deletion_answer(kind, entry, &old, None)))),
            Deletion::Mark(next) if options.dry_run => {
                Ok(Step::Done(Deleted::Marked(Answer::Object(Arc::new(next)))))
            }
            Deletion::Now if options.dry_run => {
                let last = last_state(&old, grace, ctx.now);
                Ok(Step::Done(Deleted::Gone(deletion_answer(kind, entry, &old, last))))
            }
            Deletion::Mark(next) => self.mark(kind, entry, &next).await,
            Deletion::Now => match self.remove(storage, entry).await? {
                Ok(()) => {
                    hooks.release(ctx, &old).await;
                    let last = last_state(&old, grace, ctx.now);
                    Ok(Step::Done(Deleted::Gone(deletion_answer(kind, entry, &old, last))))
                }
                Err(other) => Ok(Step::Stale(other)),
            },
        }
    }

    async fn mark(&self, kind: &Kind, entry: &Arc<Entry>, next: &Value) -> Result<Step, StatusError> {
        let storage = kind.storage()?;
        let stored = stored_bytes(kind, next)?;
        let request = put_if(&storage.store_key(&entry.key), entry.revision, stored.clone().into(), 0);
        let response = storage.place.store().txn(request).await.map_err(|e| errors::from_store(&e))?;
        if !response.succeeded {
            return Ok(Step::Stale(self.read_fresh(storage, &entry.key).await?.entry));
        }
        let revision = super::create::txn_revision(&response);
        let written = storage.cache.entry_of(&entry.key, &stored, revision);
        let written =
            written.ok_or_else(|| StatusError::internal("the object just written cannot be read"))?;
        Ok(Step::Done(Deleted::Marked(Answer::Stored(Arc::new(written)))))
    }

    async fn admit_deletion(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        old: &Value,
        options: &DeleteOptions,
    ) -> Result<(), StatusError> {
        if self.is_internal(ctx) {
            return Ok(());
        }
        let options = options.to_value();
        let operation = Operation::Delete;
        let mut request =
            Admission { ctx, operation, kind: &kind.kind, object: None, old: Some(old), options: &options };
        let chain = self.admission();
        chain.mutate(&mut request).await?;
        chain.validate(&request).await
    }

    async fn delete_one(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        entry: Arc<Entry>,
        options: &DeleteOptions,
    ) -> Result<(), StatusError> {
        let (namespace, name) = entry.namespace_and_name();
        let target = Target { namespace, name, subresource: "" };
        match self.delete(ctx, kind, target, options).await {
            Err(error) if !error.is(Reason::NotFound) => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes everything the filter matches; answers with what was matched.
    pub async fn delete_collection(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        filter: &Filter,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Entry>>, StatusError> {
        let storage = kind.storage()?;
        storage.cache.wait_current().await.map_err(|e| errors::from_cache(&e))?;
        let (page, _) = storage.cache.list(filter, None, 0);
        // Owned entries: closures over references make the future unusable across threads.
        let deletions =
            page.entries.clone().into_iter().map(|entry| self.delete_one(ctx, kind, entry, options));
        let results: Vec<_> =
            futures::stream::iter(deletions).buffer_unordered(self.collection_workers).collect().await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(page.entries)
    }
}

/// The object for kinds that answer with it, else a Status that names it.
fn deletion_answer(kind: &Kind, entry: &Arc<Entry>, old: &Value, last: Option<Value>) -> Answer {
    match last {
        _ if !kind.facts.returns_deleted => Answer::Object(Arc::new(success_status(kind, old))),
        Some(last) => Answer::Object(Arc::new(last)),
        None => Answer::Stored(entry.clone()),
    }
}

/// The Status that answers a finished deletion.
fn success_status(kind: &Kind, old: &Value) -> Value {
    let mut details = json!({"name": meta::name(old), "kind": kind.resource, "uid": meta::text(old, "uid")});
    if !kind.group.is_empty() {
        details["group"] = kind.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A definition lives until its instances are gone: the finalizer that says so comes with the deletion.
fn definition_deletion(decision: Deletion, old: &Value, now: jiff::Timestamp) -> Deletion {
    let mut next = match decision {
        Deletion::Mark(next) => next,
        Deletion::Now if !meta::is_deleting(old) => old.clone(),
        other => return other,
    };
    if !meta::is_deleting(old) {
        meta::set(&mut next, "deletionTimestamp", machinery::time::format_time(now));
        let held = meta::finalizers(&next).contains(&cleanup::FINALIZER);
        let own = (!held).then_some(cleanup::FINALIZER);
        let all: Vec<String> = meta::finalizers(&next).into_iter().chain(own).map(str::to_owned).collect();
        meta::set_finalizers(&mut next, &all);
    }
    Deletion::Mark(next)
}

/// A namespace lives until its content is gone: `spec.finalizers` hold it as metadata finalizers hold others.
fn namespace_deletion(decision: Deletion, old: &Value, now: jiff::Timestamp) -> Deletion {
    let held = old["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let mut next = match decision {
        Deletion::Mark(next) => next,
        Deletion::Now if held => old.clone(),
        other => return other,
    };
    if meta::is_deleting(old)
        && next["metadata"] == old["metadata"]
        && old["status"]["phase"] == "Terminating"
    {
        return Deletion::Pending;
    }
    if !meta::is_deleting(&next) {
        meta::set(&mut next, "deletionTimestamp", machinery::time::format_time(now));
    }
    meta::remove(&mut next, "deletionGracePeriodSeconds");
    next["status"]["phase"] = "Terminating".into();
    Deletion::Mark(next)
}
