//! What a reconcile may answer: questions first, then actions, events and a time to come back. A plan is data; the
//! executor carries it out and tests read it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::gvr::Gvr;
use super::key::Key;
use super::store::Object;

/// Something a reconcile needs to know that is in no cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// GET of a path, whole answer.
    Get(String),
    /// GET of a path, metadata only (`PartialObjectMetadata`, single or list).
    Meta(String),
    /// POST of a body that changes nothing (a review): path, JSON.
    Review(String, String),
    /// Every resource the API serves (fresh discovery).
    Kinds,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// The body.
    Json(Arc<Value>),
    /// What discovery told.
    Kinds(Arc<Discovery>),
    /// The request failed.
    Failed(Failure),
}

/// What the API serves, and the groups that could not be asked.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// Resources (without subresources), each at its preferred version.
    pub resources: Vec<ServedResource>,
    /// Group versions that failed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// One resource found by discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedResource {
    /// Its names.
    pub gvr: Gvr,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Such as `list`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
}

impl ServedResource {
    /// Whether it has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|have| have == verb)
    }
}

/// What API servers say of paths that they do not serve: ours and upstream's aggregator, upstream's handler of custom
/// resources.
const UNKNOWN_PATHS: [&str; 2] = ["the server could not find the requested resource", "404 page not found"];

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status; 0 when there was no answer.
    pub code: u16,
    /// Such as `AlreadyExists`.
    pub reason: String,
    /// The server's or the transport's message.
    pub message: String,
    /// Whether the request was the creation of an object.
    pub creating: bool,
}

impl Failure {
    /// A failure that happened on this side.
    pub fn local(message: impl Into<String>) -> Self {
        Self { code: 0, reason: String::new(), message: message.into(), creating: false }
    }

    /// The object does not exist. That nothing is served at its path does not say so: a definition may be gone, or not
    /// served yet by the server that was asked.
    pub fn is_not_found(&self) -> bool {
        self.code == 404 && !UNKNOWN_PATHS.contains(&self.message.trim())
    }

    /// The namespace is being deleted, so creating in it is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        self.code == 403 && self.message.contains("because it is being terminated")
    }
}

/// What a reconcile is given besides its caches.
pub struct Context<'a> {
    /// The wall clock; may jump.
    pub now: Timestamp,
    /// Time since the process began; never jumps.
    pub elapsed: Duration,
    /// The failure that ended the previous run of this key, if it failed.
    pub failure: Option<&'a Failure>,
    /// Answers to the questions of this run.
    pub answers: &'a FxHashMap<Ask, Answer>,
}

impl Context<'_> {
    /// The answer to a question, if it was asked in this run.
    pub fn answer(&self, ask: &Ask) -> Option<&Answer> {
        self.answers.get(ask)
    }
}

/// Which kind of patch a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Server-side apply under the controller's own field manager, forced.
    Apply,
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted afterwards.
    Background,
    /// Deleted first.
    Foreground,
    /// Left alone, their owner reference removed.
    Orphan,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// POST to the collection, or to a subresource of the named object when `subresource` is not empty.
    Create {
        /// The object.
        body: Value,
        /// Such as `eviction`; empty for the object itself.
        subresource: &'static str,
    },
    /// PUT; the body carries `metadata.resourceVersion` as the precondition.
    Update {
        /// The whole object.
        body: Value,
        /// Such as `status`; empty for the object itself.
        subresource: &'static str,
    },
    /// PATCH.
    Patch {
        /// The patch; carries `metadata.resourceVersion` or `uid` when it needs a precondition.
        body: Value,
        /// Its format.
        kind: PatchKind,
        /// Such as `status`; empty for the object itself.
        subresource: &'static str,
    },
    /// DELETE of one object.
    Delete {
        /// Only the object with this uid.
        uid: Option<String>,
        /// Only in this state.
        resource_version: Option<String>,
        /// What happens to dependents; the kind's default when absent.
        propagation: Option<Propagation>,
        /// Seconds; the object's own when absent.
        grace_secs: Option<i64>,
    },
    /// DELETE of everything in a namespace.
    DeleteCollection,
}

/// A write with its address, what its failure means and the events it leaves behind.
#[derive(Debug, Clone)]
pub struct Action {
    /// The resource.
    pub gvr: Gvr,
    /// Empty for cluster-wide resources.
    pub namespace: String,
    /// Empty when the server generates it.
    pub name: String,
    /// What to do.
    pub verb: Verb,
    /// HTTP statuses that count as success (404 of a delete, 409 of a create that may have happened before).
    pub tolerate: &'static [u16],
    /// Recorded after success; `{name}` in the message becomes the object's name.
    pub on_success: Option<Note>,
    /// Recorded after failure; `{error}` in the message becomes the failure.
    pub on_failure: Option<Note>,
}

/// An event to record.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// What it is about.
    pub about: ObjectReference,
    /// A warning, or normal.
    pub warning: bool,
    /// Machine-readable.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Note {
    /// A normal event.
    pub fn normal<K: Object>(about: &K, reason: &str, message: impl Into<String>) -> Self {
        Self { about: reference_to(about), warning: false, reason: reason.into(), message: message.into() }
    }

    /// A warning.
    pub fn warning<K: Object>(about: &K, reason: &str, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(about, reason, message) }
    }
}

/// A reference to an object, as events carry it.
pub fn reference_to<K: Object>(object: &K) -> ObjectReference {
    let meta = object.meta().clone();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        resource_version: meta.resource_version,
        field_path: None,
    }
}

impl Action {
    fn bare<K: Object>(key: Key, verb: Verb) -> Self {
        Self {
            gvr: Gvr::of::<K>(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            verb,
            tolerate: &[],
            on_success: None,
            on_failure: None,
        }
    }

    /// Creates an object (its name may be generated).
    pub fn create<K: Object>(object: &K) -> Self {
        Self::bare::<K>(Key::of(object), Verb::Create { body: body_of(object), subresource: "" })
    }

    /// Writes a whole object back; its resourceVersion is the precondition.
    pub fn update<K: Object>(object: &K) -> Self {
        Self::bare::<K>(Key::of(object), Verb::Update { body: body_of(object), subresource: "" })
    }

    /// Writes an object's status back; its resourceVersion is the precondition.
    pub fn update_status<K: Object>(object: &K) -> Self {
        Self::bare::<K>(Key::of(object), Verb::Update { body: body_of(object), subresource: "status" })
    }

    /// Merges a patch into an object.
    pub fn merge<K: Object>(object: &K, body: Value) -> Self {
        Self::bare::<K>(Key::of(object), Verb::Patch { body, kind: PatchKind::Merge, subresource: "" })
    }

    /// Merges a patch into an object's status.
    pub fn merge_status<K: Object>(object: &K, body: Value) -> Self {
        Self::bare::<K>(Key::of(object), Verb::Patch { body, kind: PatchKind::Merge, subresource: "status" })
    }

    /// Deletes this very object (by uid); that it is gone already is success.
    pub fn delete<K: Object>(object: &K) -> Self {
        let uid = object.meta().uid.clone();
        let verb = Verb::Delete { uid, resource_version: None, propagation: None, grace_secs: None };
        Self::bare::<K>(Key::of(object), verb).tolerating(&[404])
    }

    /// An action on a resource known only by name.
    pub fn on(gvr: &Gvr, namespace: &str, name: &str, verb: Verb) -> Self {
        Self {
            gvr: gvr.clone(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            verb,
            tolerate: &[],
            on_success: None,
            on_failure: None,
        }
    }

    /// Sets the propagation of a delete.
    pub fn propagating(mut self, how: Propagation) -> Self {
        if let Verb::Delete { propagation, .. } = &mut self.verb {
            *propagation = Some(how);
        }
        self
    }

    /// Counts these statuses as success.
    pub fn tolerating(mut self, codes: &'static [u16]) -> Self {
        self.tolerate = codes;
        self
    }

    /// Records an event after success.
    pub fn noting(mut self, note: Note) -> Self {
        self.on_success = Some(note);
        self
    }

    /// Records an event after failure.
    pub fn noting_failure(mut self, note: Note) -> Self {
        self.on_failure = Some(note);
        self
    }

    /// The path of the request.
    pub fn path(&self) -> String {
        let subresource = match &self.verb {
            Verb::DeleteCollection => return self.gvr.collection(&self.namespace),
            Verb::Create { subresource: "", .. } => return self.gvr.collection(&self.namespace),
            Verb::Delete { .. } => "",
            Verb::Create { subresource, .. }
            | Verb::Update { subresource, .. }
            | Verb::Patch { subresource, .. } => subresource,
        };
        let object = self.gvr.object(&self.namespace, &self.name);
        if subresource.is_empty() { object } else { format!("{object}/{subresource}") }
    }
}

/// The JSON of an object, with its `apiVersion` and `kind`.
pub fn body_of<K: Object>(object: &K) -> Value {
    let mut body = serde_json::to_value(object).unwrap_or_default();
    if let Value::Object(fields) = &mut body {
        fields.insert("apiVersion".into(), Value::String(K::api_version(&()).into_owned()));
        fields.insert("kind".into(), Value::String(K::kind(&()).into_owned()));
    }
    body
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match &self.verb {
            Verb::Create { .. } => "create",
            Verb::Update { .. } => "update",
            Verb::Patch { .. } => "patch",
            Verb::Delete { .. } => "delete",
            Verb::DeleteCollection => "delete all",
        };
        let path = self.path();
        write!(f, "{verb} {path}")?;
        if let Verb::Create { body, subresource: "" } = &self.verb {
            let generated = body["metadata"]["generateName"].as_str();
            write!(f, "/{}", generated.unwrap_or(&self.name))?;
        }
        Ok(())
    }
}

/// Whether the actions of a batch go out one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One after the other; the first failure stops.
    Serial,
    /// One, then two, then four at a time, so that creations that all fail cost few requests.
    SlowStart,
    /// Many at a time; all are tried even when some fail.
    Parallel,
}

/// Actions that go out together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// How.
    pub pace: Pace,
    /// What.
    pub actions: Vec<Action>,
}

/// The outcome of a reconcile.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Questions; when there are any the rest is ignored and reconcile runs again with the answers.
    pub asks: Vec<Ask>,
    /// Writes, batch after batch; a failure stops what follows.
    pub batches: Vec<Batch>,
    /// Events without a write of their own.
    pub notes: Vec<Note>,
    /// When to run again without any event.
    pub again_after: Option<Duration>,
    /// A problem that remains after the writes: come back with back-off.
    pub problem: Option<Failure>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Asks a question.
    pub fn ask(mut self, ask: Ask) -> Self {
        self.asks.push(ask);
        self
    }

    /// Adds a write to be done after all before it.
    pub fn act(&mut self, action: Action) {
        match self.batches.last_mut() {
            Some(batch) if batch.pace == Pace::Serial => batch.actions.push(action),
            _ => self.batches.push(Batch { pace: Pace::Serial, actions: vec![action] }),
        }
    }

    /// Adds writes that go out together.
    pub fn act_all(&mut self, pace: Pace, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.batches.push(Batch { pace, actions });
        }
    }

    /// Records an event.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Asks to come back; the earliest wish wins.
    pub fn again_after(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |set| set.min(delay)));
    }

    /// All writes in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.batches.iter().flat_map(|batch| &batch.actions)
    }

    /// The writes, one a line; for tests.
    pub fn summary(&self) -> String {
        self.actions().map(Action::to_string).collect::<Vec<_>>().join("\n")
    }
}
