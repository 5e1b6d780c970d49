//! What a controller is to the runtime: a pure `reconcile` over caches, and the wiring that says which changes run
//! which keys.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::key::Key;
use super::plan::{Context, Plan};
use super::queue::{Enqueue, Queue};
use super::store::{AnyStore, Change, Object, Store};
use super::stores::Stores;
use crate::options::Options;

/// Why a reconcile could not decide. The key comes back with back-off.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// An object in the cluster is not usable; a new version of it may be.
    #[error("{what}: {why}")]
    Invalid {
        /// The object or field.
        what: String,
        /// The problem.
        why: String,
    },
}

impl ReconcileError {
    /// An unusable object.
    pub fn invalid(what: impl ToString, why: impl ToString) -> Self {
        Self::Invalid { what: what.to_string(), why: why.to_string() }
    }
}

/// One loop. `reconcile` must be free of IO, clocks and randomness: it reads its caches and returns a plan.
pub trait Controller: Send + Sync + 'static {
    /// Decides what to do for one key.
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError>;

    /// How many keys may be run at a time.
    fn workers(&self) -> usize {
        5
    }
}

/// What a controller's constructor is: it asks for caches, says which changes run which keys, and returns the loop.
pub type Build = fn(&mut Wiring) -> Box<dyn Controller>;

/// A task that a controller needs beside its queue (discovery, for example).
pub type Background = Box<dyn FnOnce(BackgroundContext) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What a background task is given.
pub struct BackgroundContext {
    /// The client of the informers.
    pub client: kube::Client,
    /// Every cache of the process.
    pub stores: Stores,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// Handed to a constructor; collects what the loop needs.
pub struct Wiring {
    stores: Stores,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    options: Arc<Options>,
    needs: Vec<Arc<dyn AnyStore>>,
    background: Vec<Background>,
}

impl Wiring {
    /// The wiring of one controller.
    pub fn new(stores: Stores, queue: Arc<Queue>, clock: Arc<dyn Clock>, options: Arc<Options>) -> Self {
        Self { stores, queue, clock, options, needs: Vec::new(), background: Vec::new() }
    }

    /// The settings of the process.
    pub fn options(&self) -> &Arc<Options> {
        &self.options
    }

    /// The cache of a kind; the loop starts once it is filled.
    pub fn store<K: Object>(&mut self) -> Store<K> {
        let store = self.stores.of::<K>();
        self.needs.push(Arc::new(store.clone()));
        store
    }

    /// The cache of a kind, with a handler that turns each change into keys.
    pub fn on<K: Object>(
        &mut self,
        handler: impl Fn(&Change<K>, &mut Enqueue) + Send + Sync + 'static,
    ) -> Store<K> {
        let store = self.store::<K>();
        let queue = self.queue.clone();
        store.on_change(move |change| handler(change, &mut Enqueue::into_queue(&queue)));
        store
    }

    /// The cache of a kind whose every change runs the object's own key.
    pub fn on_self<K: Object>(&mut self) -> Store<K> {
        self.on::<K>(|change, queue| {
            if let Some(object) = change.latest() {
                queue.add(Key::of(object.as_ref()));
            }
        })
    }

    /// The cache of dependents whose changes run the key of the controlling owner of kind `P`.
    pub fn on_owned<K: Object, P: Object>(&mut self) -> Store<K> {
        self.on::<K>(|change, queue| {
            for object in change.both() {
                let namespace = object.meta().namespace.as_deref().unwrap_or("");
                if let Some(owner) = crate::meta::controller_of::<K, P>(object) {
                    queue.add(Key::new(namespace, &owner.name));
                }
            }
        })
    }

    /// Runs a key at the start (controllers that sweep ask to come back from there).
    pub fn at_start(&self, key: Key) {
        self.queue.add(key, Duration::ZERO);
    }

    /// The queue, for background tasks.
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// The wall clock, for handlers that must know when they saw something.
    pub fn clock(&self) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
        let clock = self.clock.clone();
        Arc::new(move || clock.wall())
    }

    /// A task that runs as long as the loop.
    pub fn background(&mut self, task: Background) {
        self.background.push(task);
    }

    /// What the runtime needs: caches to wait for, tasks to run.
    pub fn into_parts(self) -> (Vec<Arc<dyn AnyStore>>, Vec<Background>) {
        (self.needs, self.background)
    }
}
