//! The drivers that have registered, by name.

use std::collections::BTreeMap;

use kube::Client;
use parking_lot::RwLock;

use super::driver::Driver;
use crate::kubelet::volumes::tokens::Tokens;

/// Registered drivers. Shared by registration, volumes and the node's status.
pub struct Plugins {
    pub(super) client: Client,
    pub(super) node_name: String,
    /// Tokens of pods' accounts, for drivers that ask for them.
    pub(super) tokens: Tokens,
    drivers: RwLock<BTreeMap<String, Driver>>,
}

impl Plugins {
    /// None yet.
    pub fn new(client: Client, node_name: &str) -> Self {
        let tokens = Tokens::new(client.clone());
        Self { client, node_name: node_name.to_owned(), tokens, drivers: RwLock::default() }
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

    pub(super) fn remove(&self, name: &str) {
        self.drivers.write().remove(name);
    }
}
