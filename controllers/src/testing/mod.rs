//! How controllers are tested without a cluster.
//!
//! - [`check`]: objects in, planned writes out, for one key;
//! - [`model`]: an API server in memory, with the semantics controllers rely on;
//! - [`world`]: controllers running against the model until nothing moves, killed at any write, with caches that lag;
//! - [`server`]: the model behind the client library, for the shell;
//! - [`crash`]: the test that every controller must pass: killed before and after each write in turn, the same end.

pub mod crash;
pub mod kinds;
pub mod model;
pub mod nodes;
pub mod server;
pub mod world;

use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::options::Options;
use crate::runtime::clock::{Clock, ManualClock};
use crate::runtime::plan::{Context, Failure};
use crate::runtime::queue::Queue;
use crate::runtime::stores::Stores;
use crate::runtime::{Answer, Ask, Build, Key, Plan, Wiring};

/// The moment at which tests begin.
pub const NOW: &str = "2026-06-01T12:00:00Z";

/// [`NOW`] as a time.
pub fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

/// A key from `name` or `namespace/name`.
pub fn key(text: &str) -> Key {
    match text.split_once('/') {
        Some((namespace, name)) => Key::new(namespace, name),
        None => Key::cluster(text),
    }
}

/// One reconcile with everything that can be set.
pub struct Case<'a> {
    /// The controller.
    pub build: Build,
    /// The settings.
    pub options: Options,
    /// What the caches hold.
    pub objects: &'a [Value],
    /// The failure of the run before.
    pub failure: Option<Failure>,
    /// Answers to questions, as many rounds as needed.
    pub answers: Vec<(Ask, Answer)>,
    /// The wall clock.
    pub now: Timestamp,
}

impl<'a> Case<'a> {
    /// A case at [`NOW`].
    pub fn new(build: Build, objects: &'a [Value]) -> Self {
        Self { build, options: Options::default(), objects, failure: None, answers: Vec::new(), now: now() }
    }

    /// Runs the reconcile of one key.
    pub fn plan(self, name: &str) -> Plan {
        let stores = Stores::default();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(self.now));
        let queue = Queue::new("test", clock.clone());
        let mut wiring = Wiring::new(stores.clone(), queue, clock, Arc::new(self.options));
        let controller = (self.build)(&mut wiring);
        for object in self.objects {
            kinds::apply(&stores, object);
        }
        let answers: FxHashMap<Ask, Answer> = self.answers.into_iter().collect();
        let elapsed = std::time::Duration::ZERO;
        let context = Context { now: self.now, elapsed, failure: self.failure.as_ref(), answers: &answers };
        controller.reconcile(&key(name), &context).expect("a plan")
    }
}

/// Runs one reconcile and compares the writes, one a line.
#[track_caller]
pub fn check(build: Build, name: &str, objects: &[Value], expected: &str) {
    assert_eq!(Case::new(build, objects).plan(name).summary(), expected, "for {name}");
}

/// The same under other settings.
#[track_caller]
pub fn check_with(build: Build, options: &Options, name: &str, objects: &[Value], expected: &str) {
    let case = Case { options: options.clone(), ..Case::new(build, objects) };
    assert_eq!(case.plan(name).summary(), expected, "for {name}");
}
