//! The drivers that have registered, by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube::Client;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OwnedMutexGuard;

use super::driver::Driver;
use super::in_use::InUse;
use crate::kubelet::volumes::tokens::Tokens;

/// A driver and its name of a volume.
type VolumeKey = (String, String);

/// Registered drivers. Shared by registration, volumes and the node's status.
pub struct Plugins {
    pub(super) client: Client,
    pub(super) node_name: String,
    /// Tokens of pods' accounts, for drivers that ask for them.
    pub(super) tokens: Tokens,
    /// Volumes that the node's status names.
    pub in_use: InUse,
    drivers: RwLock<BTreeMap<String, Driver>>,
    /// Volumes at which somebody works.
    busy: Mutex<HashMap<VolumeKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl Plugins {
    /// None yet.
    pub fn new(client: Client, node_name: &str) -> Self {
        let tokens = Tokens::new(client.clone());
        Self {
            client,
            node_name: node_name.to_owned(),
            tokens,
            in_use: InUse::default(),
            drivers: RwLock::default(),
            busy: Mutex::default(),
        }
    }

    /// One driver; the error is upstream's text.
    pub fn driver(&self, name: &str) -> Result<Driver, String> {
        let found = self.drivers.read().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// Takes a driver in; one of the same name is replaced.
    pub fn insert(&self, driver: Driver) {
        self.drivers.write().insert(driver.name.clone(), driver);
    }

    /// Waits until nobody else works at this volume: a driver may be asked one thing about a volume at a time, and what
    /// one pod takes back another must not be getting.
    pub(super) async fn alone_with(&self, driver: &str, volume_id: &str) -> OwnedMutexGuard<()> {
        let volume = {
            let mut busy = self.busy.lock();
            busy.retain(|_, volume| Arc::strong_count(volume) > 1);
            Arc::clone(busy.entry((driver.to_owned(), volume_id.to_owned())).or_default())
        };
        volume.lock_owned().await
    }

    pub(super) fn remove(&self, name: &str) {
        self.drivers.write().remove(name);
    }
}
