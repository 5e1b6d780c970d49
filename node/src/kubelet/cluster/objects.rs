//! ConfigMaps and Secrets that pods of this machine use: each is listed and watched by name (the Node authorizer
//! allows no more) from its first use until nobody has asked for it for a while, so that two hundred pods sharing one
//! object cost one request, and a change is known when it happens.
//!
//! Invariant: at most one watch an object. While the API is away, what was last known stands.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use machinery::client::watch::lasting_object;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long a reader waits for an object that is not known yet. A refusal right after the pod was bound counts as not
/// known: the API servers learn of the binding from a watch, too.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A watch ends when nobody asked for its object in this time.
const UNUSED_MAX: Duration = Duration::from_secs(600);
/// Pause after a watch broke: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Changes that wait to be told; more are dropped, because every pod looks again by itself.
const CHANGES_LEN_MAX: usize = 1024;

/// A ConfigMap or a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Which of the two.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Kinds that pods take files and variables from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// The API gave no answer, and nothing is known from earlier. The text is upstream's, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to sync {kind} cache: {why}")]
pub struct Unknown {
    kind: &'static str,
    why: String,
}

/// What is known of an object.
#[derive(Clone, Debug)]
enum Known<T> {
    /// Nothing yet; why, after a failure.
    Nothing(Option<String>),
    /// The API's answer.
    Answer(Option<Arc<T>>),
}

struct Slot<T> {
    used_at: Instant,
    known: watch::Receiver<Known<T>>,
}

type Slots<T> = Arc<Mutex<HashMap<ObjectRef, Slot<T>>>>;

/// Kinds that can be kept.
trait Kept:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    const KIND: ObjectKind;
    /// The word of error texts.
    const WORD: &'static str;
    fn is_immutable(&self) -> bool;
}

impl Kept for ConfigMap {
    const KIND: ObjectKind = ObjectKind::ConfigMap;
    const WORD: &'static str = "configmap";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

impl Kept for Secret {
    const KIND: ObjectKind = ObjectKind::Secret;
    const WORD: &'static str = "secret";
    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }
}

/// The objects. Shared by every pod's worker.
pub struct Objects {
    client: Client,
    config_maps: Slots<ConfigMap>,
    secrets: Slots<Secret>,
    changes: mpsc::Sender<ObjectRef>,
}

impl Objects {
    /// Nothing is watched yet. The receiver tells which objects changed after they were first read.
    pub fn new(client: Client) -> (Self, mpsc::Receiver<ObjectRef>) {
        let (changes, receiver) = mpsc::channel(CHANGES_LEN_MAX);
        (Self { client, config_maps: Slots::default(), secrets: Slots::default(), changes }, receiver)
    }

    /// The API, as this node.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A ConfigMap; `None` if it does not exist.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Unknown> {
        self.read(&self.config_maps, namespace, name).await
    }

    /// A Secret; `None` if it does not exist.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Unknown> {
        self.read(&self.secrets, namespace, name).await
    }

    /// Knows these from now on, too: a container that is started anew while the API is away needs them.
    pub fn keep(&self, namespace: &str, config_maps: Vec<String>, secrets: Vec<String>) {
        let of = |kind, name| ObjectRef { kind, namespace: namespace.to_owned(), name };
        for name in config_maps {
            drop(self.slot(&self.config_maps, of(ObjectKind::ConfigMap, name)));
        }
        for name in secrets {
            drop(self.slot(&self.secrets, of(ObjectKind::Secret, name)));
        }
    }

    async fn read<T: Kept>(
        &self,
        slots: &Slots<T>,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<T>>, Unknown> {
        let object = ObjectRef { kind: T::KIND, namespace: namespace.to_owned(), name: name.to_owned() };
        let mut known = self.slot(slots, object);
        let answer = known.wait_for(|known| matches!(known, Known::Answer(_)));
        let found = match tokio::time::timeout(FIRST_ANSWER_LIMIT, answer).await {
            Ok(Ok(known)) => Some(known.clone()),
            _ => None,
        };
        match found.unwrap_or_else(|| known.borrow().clone()) {
            Known::Answer(answer) => Ok(answer),
            Known::Nothing(why) => {
                let why = why.unwrap_or_else(|| "timed out waiting for the condition".to_owned());
                Err(Unknown { kind: T::WORD, why })
            }
        }
    }

    /// What is known of an object, watched from now on.
    fn slot<T: Kept>(&self, slots: &Slots<T>, object: ObjectRef) -> watch::Receiver<Known<T>> {
        let mut map = slots.lock();
        if let Some(slot) = map.get_mut(&object) {
            slot.used_at = Instant::now();
            return slot.known.clone();
        }
        let (sender, known) = watch::channel(Known::Nothing(None));
        map.insert(object.clone(), Slot { used_at: Instant::now(), known: known.clone() });
        let follow = Follow {
            api: Api::namespaced(self.client.clone(), &object.namespace),
            object,
            slots: Arc::clone(slots),
            sender,
            changes: self.changes.clone(),
        };
        tokio::spawn(follow.run());
        known
    }
}

/// The watch of one object.
struct Follow<T> {
    api: Api<T>,
    object: ObjectRef,
    slots: Slots<T>,
    sender: watch::Sender<Known<T>>,
    changes: mpsc::Sender<ObjectRef>,
}

impl<T: Kept> Follow<T> {
    async fn run(self) {
        let stream = lasting_object(self.api.clone(), &self.object.name);
        pin_mut!(stream);
        let mut look = tokio::time::interval(UNUSED_MAX / 10);
        let mut pause = RETRY.0;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = look.tick() => if self.forgotten() { return } else { continue },
            };
            match event {
                None => break,
                Some(Ok(object)) => {
                    pause = RETRY.0;
                    if self.take(object) {
                        break;
                    }
                }
                Some(Err(error)) => {
                    self.interrupted(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
        // It never changes again: what is known is kept as long as it is used.
        while !self.forgotten() {
            look.tick().await;
        }
    }

    fn interrupted(&self, error: &watcher::Error) {
        tracing::debug!(%error, object = ?self.object, "a watch was interrupted");
        self.sender.send_modify(|known| {
            if let Known::Nothing(why) = known {
                *why = Some(error.to_string());
            }
        });
    }

    /// Takes news; true if there will be none any more.
    fn take(&self, object: Option<T>) -> bool {
        let object = object.map(|mut object| {
            object.meta_mut().managed_fields = None;
            object.meta_mut().annotations = None;
            Arc::new(object)
        });
        let is_final = object.as_ref().is_some_and(|o| o.is_immutable());
        let version = |o: &Option<Arc<T>>| o.as_ref().and_then(|o| o.meta().resource_version.clone());
        let before = self.sender.send_replace(Known::Answer(object.clone()));
        if let Known::Answer(before) = before
            && version(&before) != version(&object)
        {
            let _ = self.changes.try_send(self.object.clone());
        }
        is_final
    }

    /// True once nobody asks for the object; it is then unknown again.
    fn forgotten(&self) -> bool {
        let mut slots = self.slots.lock();
        let unused = slots.get(&self.object).is_none_or(|slot| slot.used_at.elapsed() >= UNUSED_MAX);
        if unused {
            slots.remove(&self.object);
        }
        unused
    }
}
