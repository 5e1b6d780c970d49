//! ConfigMaps and Secrets that pods of this machine use, read one by one (the Node authorizer allows no more)
//! and kept for a short time, so that two hundred pods sharing one object ask for it once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use parking_lot::Mutex;

/// How long an answer is taken for current. Live updates reach volumes within this and one refresh period.
const FRESH: Duration = Duration::from_secs(20);
/// Entries that nobody asked for in this time are dropped.
const UNUSED_MAX: Duration = Duration::from_secs(600);
/// Entries from which on every insertion drops unused ones.
const SWEEP_FROM: usize = 256;

type Key = (String, String);

struct Entry<T> {
    value: Option<T>,
    read_at: Instant,
    used_at: Instant,
    immutable: bool,
}

/// The cache. Shared by every pod's worker.
pub struct Objects {
    client: Client,
    config_maps: Mutex<HashMap<Key, Entry<ConfigMap>>>,
    secrets: Mutex<HashMap<Key, Entry<Secret>>>,
}

impl Objects {
    /// An empty cache over the client.
    pub fn new(client: Client) -> Self {
        Self { client, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// The API, as this node.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A ConfigMap; `None` if it does not exist. An error means the API gave no answer and nothing is known.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = fresh(&self.config_maps, &key) {
            return Ok(known);
        }
        let read = Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await;
        store(&self.config_maps, key, read, |m| m.immutable == Some(true))
    }

    /// A Secret; `None` if it does not exist.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = fresh(&self.secrets, &key) {
            return Ok(known);
        }
        let read = Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await;
        store(&self.secrets, key, read, |s| s.immutable == Some(true))
    }
}

fn fresh<T: Clone>(cache: &Mutex<HashMap<Key, Entry<T>>>, key: &Key) -> Option<Option<T>> {
    let mut cache = cache.lock();
    let entry = cache.get_mut(key)?;
    entry.used_at = Instant::now();
    // What did not exist is asked for anew each time: a pod waits for it.
    let current = entry.value.is_some() && (entry.immutable || entry.read_at.elapsed() < FRESH);
    current.then(|| entry.value.clone())
}

/// Keeps an answer; while the API is away, the last known value stands in.
fn store<T: Clone>(
    cache: &Mutex<HashMap<Key, Entry<T>>>,
    key: Key,
    read: Result<Option<T>, kube::Error>,
    immutable: impl Fn(&T) -> bool,
) -> Result<Option<T>, kube::Error> {
    let mut cache = cache.lock();
    let value = match read {
        Ok(value) => value,
        Err(error) => {
            return cache.get(&key).and_then(|e| e.value.clone()).map(Some).ok_or(error);
        }
    };
    if cache.len() >= SWEEP_FROM {
        cache.retain(|_, e| e.used_at.elapsed() < UNUSED_MAX);
    }
    let now = Instant::now();
    let immutable = value.as_ref().is_some_and(immutable);
    cache.insert(key, Entry { value: value.clone(), read_at: now, used_at: now, immutable });
    Ok(value)
}
