//! The one pipeline that every resource goes through, built-in or custom:
//! decode → prune and check → default → admit → the kind's rules → validate → store → encode.
//!
//! Reading order: [`facts`], [`kind`], [`catalog`], [`convert`] say what is served; [`options`] and [`decode`] read
//! requests; [`meta`] holds the rules all metadata obeys; [`create`], [`update`], [`patch`], [`delete`] and [`read`]
//! are the verbs; [`writer`] is the pipeline as hooks and controllers of this process use it.
//!
//! Invariant: an object reaches the store only through `create`, `update` or `delete`, each of which is one
//! compare-and-set on one key.

pub mod builtin;
pub mod catalog;
pub mod convert;
pub mod create;
pub mod decode;
pub mod delete;
pub mod delete_rules;
pub mod errors;
pub mod facts;
pub mod kind;
pub mod meta;
pub mod meta_checks;
pub mod options;
pub mod patch;
pub mod place;
pub mod read;
pub mod selectors;
pub mod served;
pub mod update;
mod update_rules;
pub mod writer;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::cache::{Entry, Hub};
use crate::contract::{AdmissionChain, RequestContext, UserInfo};
use catalog::Catalog;
use place::{Place, Places};

/// What a verb gives back.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An object as it is in the store, at the storage version.
    Stored(Arc<Entry>),
    /// An object that was not stored (dry run, computed kinds), at the version of the request.
    Object(Arc<Value>),
}

/// The pipeline and what it works on. Cheap to share; holds no request state.
pub struct Registry {
    /// Of the place where nearly everything lies.
    pub hub: Arc<Hub>,
    pub catalog: Catalog,
    admission: ArcSwap<AdmissionSlot>,
    places: Places,
    /// The uid that requests of this process carry; random, so that nobody can authenticate as it.
    internal_uid: String,
    /// Deletions of one collection in flight at the same time.
    collection_workers: usize,
}

/// Where no flag says how many deletions of one collection are in flight: a namespace of thousands of objects should
/// not take minutes (upstream: one).
pub const COLLECTION_WORKERS: usize = 8;

/// `ArcSwap` needs a sized value.
struct AdmissionSlot(Arc<dyn AdmissionChain>);

impl Registry {
    /// Events live for `event_ttl`; zero for ever.
    pub fn new(hub: Arc<Hub>, admission: Arc<dyn AdmissionChain>, event_ttl: Duration) -> Self {
        Self {
            places: Places::new(hub.clone(), event_ttl),
            hub,
            catalog: Catalog::default(),
            admission: ArcSwap::from_pointee(AdmissionSlot(admission)),
            internal_uid: uuid::Uuid::new_v4().to_string(),
            collection_workers: COLLECTION_WORKERS,
        }
    }

    /// The same with another number of deletions in flight (`--delete-collection-workers`), at least one.
    pub fn with_collection_workers(self, workers: usize) -> Self {
        Self { collection_workers: workers.max(1), ..self }
    }

    /// Where objects of these groups and resources lie instead (`--etcd-servers-overrides`); to be said before the
    /// built-in resources are installed.
    pub fn with_elsewhere(mut self, hub: Arc<Hub>, resources: &[(String, String)]) -> Self {
        self.places.add(hub, resources);
        self
    }

    /// Where custom objects lie.
    pub(crate) fn home(&self) -> Arc<Place> {
        self.places.home()
    }

    /// The chain can need the registry itself, so it is put in once both exist.
    pub fn set_admission(&self, admission: Arc<dyn AdmissionChain>) {
        self.admission.store(Arc::new(AdmissionSlot(admission)));
    }

    /// The user that this process acts as; its writes skip admission.
    pub fn internal_user(&self) -> UserInfo {
        UserInfo {
            name: "system:apiserver".to_owned(),
            uid: self.internal_uid.clone(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..UserInfo::default()
        }
    }

    pub(crate) fn is_internal(&self, ctx: &RequestContext) -> bool {
        ctx.user.uid == self.internal_uid
    }

    pub fn admission(&self) -> Arc<dyn AdmissionChain> {
        self.admission.load().0.clone()
    }
}
