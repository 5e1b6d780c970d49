//! The verb create.

use std::sync::Arc;

use machinery::status::StatusError;
use proto::etcdserverpb as pb;
use serde_json::Value;

use super::decode::refuse_too_deep;
use super::facts::StatusKeeps;
use super::kind::Kind;
use super::options::WriteOptions;
use super::{Answer, Registry, errors, meta, meta_checks};
use crate::cache::Entry;
use crate::contract::{Admission, KindHooks, Operation, RequestContext};
use crate::storage::keys::put_if;

/// Names tried for one `generateName` before the request fails (upstream `maxNameGenerationCreateAttempts`).
const GENERATED_NAMES_MAX: usize = 8;

impl Registry {
    /// Creates an object that has been decoded and defaulted.
    pub async fn create(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Answer, StatusError> {
        let generates = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
        if !generates {
            return self.create_once(ctx, kind, object, options).await;
        }
        let mut taken = String::new();
        for _ in 0..GENERATED_NAMES_MAX {
            match self.create_once(ctx, kind, object.clone(), options).await {
                Err(error) if error.is(machinery::status::Reason::AlreadyExists) => {
                    taken = error.details().map(|d| d.name.clone()).unwrap_or_default();
                }
                result => return result,
            }
        }
        Err(StatusError::generate_name_conflict(&kind.group, &kind.resource, &taken, 1))
    }

    async fn create_once(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Answer, StatusError> {
        let hooks = kind.hooks("");
        fill(ctx, kind, &mut object)?;
        self.track(ctx, kind, "", None, &mut object, options);
        self.admit(ctx, kind, Operation::Create, &mut object, None, options).await?;
        self.finish_create(ctx, kind, &*hooks, object, options).await
    }

    /// Everything after admission: the kind's preparation and checks, validating admission, claim, write.
    pub(super) async fn finish_create(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        hooks: &dyn KindHooks,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Answer, StatusError> {
        let warnings = ctx.warning_count();
        prepare(ctx, kind, hooks, &mut object);
        let mut problems = meta_checks::check_new(&object, kind.namespaced, &|name, prefix| {
            hooks.validate_name(name, prefix)
        });
        problems.extend(meta_checks::check_finalizer_names(kind, &object));
        problems.extend(check_custom(kind, &object));
        problems.extend(hooks.validate_create(ctx, &object));
        if !problems.is_empty() {
            ctx.forget_warnings_after(warnings);
            return Err(StatusError::invalid(kind.error_group(), &kind.kind, meta::name(&object), problems));
        }
        self.validate_admission(ctx, kind, Operation::Create, Some(&mut object), None, options).await?;
        refuse_too_deep(kind, &object)?;
        if options.dry_run {
            self.refuse_if_exists(kind, &object).await?;
            // Claims nothing, and says what would have been claimed or that it is taken.
            hooks.claim(ctx, &mut object, None).await?;
            return Ok(Answer::Object(Arc::new(object)));
        }
        hooks.claim(ctx, &mut object, None).await?;
        let written = self.put_new(kind, &object).await;
        if written.is_err() {
            hooks.release(ctx, &object).await;
        }
        written.map(Answer::Stored)
    }

    async fn refuse_if_exists(&self, kind: &Kind, object: &Value) -> Result<(), StatusError> {
        let storage = kind.storage()?;
        storage.cache.wait_current().await.map_err(|e| errors::from_cache(&e))?;
        let key = storage.object_key(meta::namespace(object), meta::name(object));
        match storage.cache.get(&key) {
            Some(_) => Err(StatusError::already_exists(&kind.group, &kind.resource, meta::name(object))),
            None => Ok(()),
        }
    }

    async fn put_new(&self, kind: &Kind, object: &Value) -> Result<Arc<Entry>, StatusError> {
        let storage = kind.storage()?;
        let object_key = storage.object_key(meta::namespace(object), meta::name(object));
        let stored = stored_bytes(kind, object)?;
        let lease = storage.place.lease_for(kind).await?;
        let request = put_if(&storage.store_key(&object_key), 0, stored.clone().into(), lease);
        let response = storage.place.store().txn(request).await.map_err(|e| errors::from_store(&e))?;
        if !response.succeeded {
            return Err(StatusError::already_exists(&kind.group, &kind.resource, meta::name(object)));
        }
        let revision = txn_revision(&response);
        Ok(Arc::new(storage.cache.written(&object_key, &stored, revision)))
    }

    /// Records who owns the written fields.
    pub(super) fn track(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        subresource: &str,
        old: Option<&Value>,
        new: &mut Value,
        options: &WriteOptions,
    ) {
        let manager = manager(ctx, subresource, options);
        let reset = reset_fields(kind, subresource);
        machinery::apply::track_update(&kind.schema, &kind.api_version(), old, new, &manager, &reset);
    }

    /// Runs the mutating half of admission.
    pub(super) async fn admit(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), StatusError> {
        if self.is_internal(ctx) {
            return Ok(());
        }
        let options = options.to_value(options_kind(operation));
        let object = Some(object);
        let mut request = Admission { ctx, operation, kind: &kind.kind, object, old, options: &options };
        self.admission().mutate(&mut request).await
    }

    /// Runs the validating half of admission.
    pub(super) async fn validate_admission(
        &self,
        ctx: &RequestContext,
        kind: &Kind,
        operation: Operation,
        object: Option<&mut Value>,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), StatusError> {
        if self.is_internal(ctx) {
            return Ok(());
        }
        let options = options.to_value(options_kind(operation));
        let request = Admission { ctx, operation, kind: &kind.kind, object, old, options: &options };
        self.admission().validate(&request).await
    }
}

fn options_kind(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => "ConnectOptions",
    }
}

/// Who writes, for managedFields.
pub fn manager(ctx: &RequestContext, subresource: &str, options: &WriteOptions) -> machinery::apply::Manager {
    machinery::apply::Manager {
        name: options.manager.clone(),
        subresource: subresource.to_owned(),
        now: ctx.now,
    }
}

/// The fields that writes through this subresource do not keep, and so do not own.
pub fn reset_fields(kind: &Kind, subresource: &str) -> machinery::apply::ResetFields {
    let paths: &[&[&str]] = match (subresource, kind.facts.status_keeps) {
        ("", _) if kind.has_status() => &[&["status"]],
        ("status", _) if kind.is_custom() => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "generation"]]
        }
        ("status", _) if kind.resource == "pods" => {
            &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
        }
        ("status", StatusKeeps::Metadata) => &[&["spec"], &["metadata"]],
        ("status", StatusKeeps::Labels) => &[&["spec"], &["metadata", "labels"]],
        ("status", StatusKeeps::Nothing) => &[&["spec"]],
        _ => &[],
    };
    machinery::apply::ResetFields::new(paths)
}

/// Name, namespace and what the server owns in the metadata.
fn fill(ctx: &RequestContext, kind: &Kind, object: &mut Value) -> Result<(), StatusError> {
    let namespace = if kind.namespaced { ctx.info.namespace.as_str() } else { "" };
    meta::match_namespace(object, namespace)?;
    if !meta::text(object, "resourceVersion").is_empty() {
        return Err(StatusError::internal("resourceVersion should not be set on objects to be created"));
    }
    meta::remove(object, "resourceVersion");
    if meta::name(object).is_empty() {
        let base = meta::text(object, "generateName").to_owned();
        if !base.is_empty() {
            let name = meta::generated_name(&base, &mut || usize::from(rand::random::<u16>()));
            meta::set(object, "name", name);
        }
    }
    meta::fill_new(object, uuid::Uuid::new_v4().to_string(), ctx.now);
    Ok(())
}

fn prepare(ctx: &RequestContext, kind: &Kind, hooks: &dyn KindHooks, object: &mut Value) {
    if kind.has_status()
        && !kind.facts.status_on_create
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if kind.facts.generation {
        meta::set(object, "generation", 1);
    } else {
        meta::remove(object, "generation");
    }
    hooks.prepare_for_create(ctx, object);
}

/// The schema's own checks, which custom resources have instead of rules in Rust.
pub fn check_custom(kind: &Kind, object: &Value) -> Vec<machinery::status::FieldError> {
    if !kind.is_custom() {
        return Vec::new();
    }
    let mut problems = machinery::schema::validate::validate(&kind.schema, object);
    problems.extend(check_scale(kind, object));
    problems
}

/// Replicas are never negative, whatever the schema says of the field that holds them.
fn check_scale(kind: &Kind, object: &Value) -> Option<machinery::status::FieldError> {
    let path = &kind.custom.as_ref()?.scale.as_ref()?.spec_replicas;
    let replicas = path.iter().try_fold(object, |value, key| value.get(key))?.as_i64()?;
    let field = format!(".{}", path.join("."));
    let why = "should be a non-negative integer";
    (replicas < 0).then(|| machinery::status::FieldError::invalid(&field, replicas, why))
}

/// The same for an update: what has not changed is not complained about (ratcheting).
pub fn check_custom_update(kind: &Kind, new: &Value, old: &Value) -> Vec<machinery::status::FieldError> {
    if !kind.is_custom() {
        return Vec::new();
    }
    let mut problems = machinery::schema::validate::validate_update(&kind.schema, new, old);
    problems.extend(check_scale(kind, new));
    problems
}

/// The bytes the store gets.
pub fn stored_bytes(kind: &Kind, object: &Value) -> Result<Vec<u8>, StatusError> {
    let storage = kind.storage()?;
    let layout = &storage.cache.spec.layout;
    if kind.conversion == super::convert::Conversion::Same {
        return Ok(layout.encode_stored(object));
    }
    Ok(layout.encode_stored(&kind.conversion.to_storage(object.clone(), &storage.api_version)))
}

/// The revision a transaction was made at.
pub fn txn_revision(response: &pb::TxnResponse) -> i64 {
    response.header.as_ref().map_or(0, |h| h.revision)
}
