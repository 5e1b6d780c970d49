//! The verb update, and the loop that every change of an existing object goes through.
//!
//! A change starts from the cached object. When the store turns out to have a newer one, or the change is refused on
//! the ground of what may be stale, it starts again from the store's.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::status::StatusError;
use proto::etcdserverpb as pb;
use serde_json::Value;

use super::create::{check_custom_update, stored_bytes, txn_revision};
use super::decode::refuse_too_deep;
use super::delete_rules::completes_deletion;
use super::kind::{Kind, Storage};
use super::options::WriteOptions;
use super::update_rules::{check_identity, holds_namespace, prepare, settle_revision};
use super::{Answer, Registry, errors, meta, meta_checks};
use crate::cache::Entry;
use crate::contract::{KindHooks, Operation, RequestContext};
use crate::storage::keys::{delete_if, put_if};

/// Times a change is tried against newer and newer objects before the client is told to try again itself.
const ATTEMPTS_MAX: usize = 16;

/// Makes the wanted object out of the current one, as often as needed.
#[async_trait]
pub trait Change: Send + Sync {
    /// The wanted object at the request's version, decoded and defaulted. `current` is `None` when there is none.
    async fn make(&self, ctx: &RequestContext, current: Option<&Value>) -> Result<Value, StatusError>;

    /// Whether a missing object is created.
    fn creates(&self) -> bool {
        false
    }

    /// Whether the wanted object is a whole one that was sent, not a change of the current one.
    fn replaces(&self) -> bool {
        false
    }

    /// Whether `make` has already recorded managedFields.
    fn tracks_managers(&self) -> bool {
        false
    }
}

/// Replaces the object by a given one.
pub struct Replace(pub Value);

#[async_trait]
impl Change for Replace {
    async fn make(&self, _: &RequestContext, _: Option<&Value>) -> Result<Value, StatusError> {
        Ok(self.0.clone())
    }

    fn replaces(&self) -> bool {
        true
    }
}

/// Which object, through which subresource.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
}

/// The object as far as it is known.
pub(super) struct Current {
    pub entry: Option<Arc<Entry>>,
    /// Read from the store in this request, not from the cache.
    pub fresh: bool,
}

/// What one attempt came to.
enum Attempt {
    Done(Answer, bool),
    /// The store has another object than assumed.
    Stale(Option<Arc<Entry>>),
}

impl Registry {
    /// Changes an object; the flag says whether it was created by this.
    pub async fn update(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        target: Target<'_>,
        change: &dyn Change,
        options: &WriteOptions,
    ) -> Result<(Answer, bool), StatusError> {
        let storage = kind.storage()?;
        storage.cache.ready().await.map_err(|e| errors::from_cache(&e))?;
        let key = storage.object_key(target.namespace, target.name);
        let mut current = Current { entry: storage.cache.get(&key), fresh: false };
        if current.entry.is_none() {
            current = self.read_fresh(storage, &key).await?;
        }
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(ctx, kind, target, change, options, &current).await {
                Ok(Attempt::Done(answer, created)) => return Ok((answer, created)),
                Ok(Attempt::Stale(entry)) => current = Current { entry, fresh: true },
                Err(error) if current.fresh => return Err(error),
                Err(error) => {
                    // The refusal may rest on a cached object that is no longer current.
                    let seen = current.entry.as_ref().map(|e| e.revision);
                    current = self.read_fresh(storage, &key).await?;
                    if current.entry.as_ref().map(|e| e.revision) == seen {
                        return Err(error);
                    }
                }
            }
        }
        Err(StatusError::conflict_modified(&kind.group, &kind.resource, target.name))
    }

    /// Reads one object from the store.
    pub(super) async fn read_fresh(&self, storage: &Storage, key: &str) -> Result<Current, StatusError> {
        let request = pb::RangeRequest { key: storage.store_key(key), ..Default::default() };
        let response = storage.place.store().range(request).await.map_err(|e| errors::from_store(&e))?;
        let entry =
            response.kvs.first().and_then(|kv| storage.cache.entry_of(key, &kv.value, kv.mod_revision));
        Ok(Current { entry: entry.map(Arc::new), fresh: true })
    }

    async fn attempt(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        target: Target<'_>,
        change: &dyn Change,
        options: &WriteOptions,
        current: &Current,
    ) -> Result<Attempt, StatusError> {
        let not_found = || StatusError::not_found(&kind.group, &kind.resource, target.name);
        let Some(entry) = &current.entry else {
            let creates = change.creates() || (kind.facts.create_on_update && target.subresource.is_empty());
            if !creates {
                return Err(not_found());
            }
            let answer = self.create_through_update(ctx, kind, target, change, options).await?;
            return Ok(Attempt::Done(answer, true));
        };
        let old = served(kind, entry);
        if !old.is_object() {
            return Err(StatusError::internal(format!(
                "stored {} {:?} cannot be decoded",
                kind.resource, target.name
            )));
        }
        let mut new = change.make(ctx, Some(&old)).await?;
        check_identity(kind, target, &mut new)?;
        settle_revision(kind, &mut new, &old, change.replaces())?;
        if !change.tracks_managers() {
            self.track(ctx, kind, target.subresource, Some(&old), &mut new, options);
        }
        self.admit(ctx, kind, Operation::Update, &mut new, Some(&old), options).await?;
        let hooks = kind.hooks(target.subresource);
        let warnings = ctx.warning_count();
        prepare(ctx, kind, target, &*hooks, &mut new, &old);
        let mut problems = meta_checks::check_update(&new, &old, kind.namespaced);
        problems.extend(meta_checks::check_finalizer_names(kind, &new));
        problems.extend(check_custom_update(kind, &new, &old));
        problems.extend(hooks.validate_update(ctx, &new, &old));
        if !problems.is_empty() {
            ctx.forget_warnings_after(warnings);
            return Err(StatusError::invalid(kind.error_group(), &kind.kind, target.name, problems));
        }
        self.validate_admission(ctx, kind, Operation::Update, Some(&mut new), Some(&old), options).await?;
        refuse_too_deep(kind, &new)?;
        if options.dry_run {
            // Claims nothing, and says what would have been claimed or that it is taken.
            hooks.claim(ctx, &mut new, Some(&old)).await?;
            return Ok(Attempt::Done(Answer::Object(Arc::new(new)), false));
        }
        if completes_deletion(&new, &old) && !holds_namespace(kind, &new) {
            return self.delete_now(ctx, kind, entry, Some(new)).await;
        }
        self.write(ctx, kind, &*hooks, entry, new, &old, current.fresh).await
    }

    #[allow(clippy::too_many_arguments)] // One call site; the parts have no meaning as a group.
    async fn write(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        hooks: &dyn KindHooks,
        entry: &Arc<Entry>,
        mut new: Value,
        old: &Value,
        fresh: bool,
    ) -> Result<Attempt, StatusError> {
        let storage = kind.storage()?;
        hooks.claim(ctx, &mut new, Some(old)).await?;
        let stored = stored_bytes(kind, &new)?;
        if stored == storage.cache.spec.layout.unserve(&entry.json) {
            return self.unchanged(storage, entry, fresh).await;
        }
        let lease = storage.place.lease_for(kind).await?;
        let request = put_if(&storage.store_key(&entry.key), entry.revision, stored.clone().into(), lease);
        let response = storage.place.store().txn(request).await;
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                hooks.release(ctx, &new).await;
                return Err(errors::from_store(&error));
            }
        };
        if !response.succeeded {
            hooks.release(ctx, &new).await;
            return Ok(Attempt::Stale(read_in_txn(storage, &entry.key, &response)));
        }
        hooks.settle(ctx, &new, old).await;
        let written = storage.cache.written(&entry.key, &stored, txn_revision(&response));
        Ok(Attempt::Done(Answer::Stored(Arc::new(written)), false))
    }

    /// An update that changes nothing writes nothing, but must not rest on a stale object.
    async fn unchanged(
        &self,
        storage: &Storage,
        entry: &Arc<Entry>,
        fresh: bool,
    ) -> Result<Attempt, StatusError> {
        if !fresh {
            let now = self.read_fresh(storage, &entry.key).await?;
            if now.entry.as_ref().map(|e| e.revision) != Some(entry.revision) {
                return Ok(Attempt::Stale(now.entry));
            }
        }
        Ok(Attempt::Done(Answer::Stored(entry.clone()), false))
    }

    /// Takes the object out of the store because this update ends its deletion.
    async fn delete_now(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        entry: &Arc<Entry>,
        last: Option<Value>,
    ) -> Result<Attempt, StatusError> {
        let storage = kind.storage()?;
        match self.remove(storage, entry).await? {
            Ok(()) => {
                let gone = last.unwrap_or_else(|| served(kind, entry));
                kind.hooks("").release(ctx, &gone).await;
                Ok(Attempt::Done(Answer::Object(Arc::new(gone)), false))
            }
            Err(other) => Ok(Attempt::Stale(other)),
        }
    }

    /// Deletes the key when it is still at the entry's revision; the inner error is what is there instead.
    pub(super) async fn remove(
        &self,
        storage: &Storage,
        entry: &Entry,
    ) -> Result<Result<(), Option<Arc<Entry>>>, StatusError> {
        let request = delete_if(&storage.store_key(&entry.key), entry.revision);
        let response = storage.place.store().txn(request).await.map_err(|e| errors::from_store(&e))?;
        if response.succeeded {
            return Ok(Ok(()));
        }
        Ok(Err(read_in_txn(storage, &entry.key, &response)))
    }

    async fn create_through_update(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        target: Target<'_>,
        change: &dyn Change,
        options: &WriteOptions,
    ) -> Result<Answer, StatusError> {
        let mut new = change.make(ctx, None).await?;
        check_identity(kind, target, &mut new)?;
        meta::remove(&mut new, "resourceVersion");
        let managed = meta::remove(&mut new, "managedFields").filter(|_| change.tracks_managers());
        meta::fill_new(&mut new, uuid::Uuid::new_v4().to_string(), ctx.now);
        match managed {
            Some(fields) => meta::set(&mut new, "managedFields", fields),
            None => self.track(ctx, kind, "", None, &mut new, options),
        }
        self.admit(ctx, kind, Operation::Create, &mut new, None, options).await?;
        self.finish_create(ctx, kind, &*kind.hooks(""), new, options).await
    }
}

/// The cached object at the version of the request.
pub fn served(kind: &Kind, entry: &Entry) -> Value {
    let value = entry.value();
    let value = Arc::try_unwrap(value).unwrap_or_else(|shared| (*shared).clone());
    kind.conversion.from_storage(value, &kind.api_version())
}

/// The entry that the failed half of a guarded transaction read.
fn read_in_txn(storage: &Storage, key: &str, response: &pb::TxnResponse) -> Option<Arc<Entry>> {
    use pb::response_op::Response;
    let Some(Response::ResponseRange(range)) = response.responses.first()?.response.as_ref() else {
        return None;
    };
    let kv = range.kvs.first()?;
    storage.cache.entry_of(key, &kv.value, kv.mod_revision).map(Arc::new)
}
