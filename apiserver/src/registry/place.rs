//! Where objects lie: a store, the stream that follows it, and the leases of what expires in it.
//!
//! Nearly always there is one place. `--etcd-servers-overrides` gives built-in resources places of their own; each store
//! counts its revisions by itself, and nothing here compares those of two resources.

use std::sync::Arc;
use std::time::Duration;

use machinery::status::StatusError;

use super::errors;
use super::kind::Kind;
use crate::cache::Hub;
use crate::storage::Store;
use crate::storage::leases::SharedLeases;

/// One store and what belongs to it.
pub struct Place {
    pub hub: Arc<Hub>,
    /// Leases of the objects that expire by themselves: events. `None` where they never do.
    leases: Option<SharedLeases>,
}

impl Place {
    /// Events live for `event_ttl`; zero for ever.
    pub fn new(hub: Arc<Hub>, event_ttl: Duration) -> Self {
        let store = hub.store.clone();
        Self { leases: (!event_ttl.is_zero()).then(|| SharedLeases::new(store, event_ttl)), hub }
    }

    pub fn store(&self) -> &dyn Store {
        &*self.hub.store
    }

    /// The lease that a write of this kind hangs on; 0 for none.
    pub async fn lease_for(&self, kind: &Kind) -> Result<i64, StatusError> {
        match &self.leases {
            Some(leases) if kind.facts.expires => leases.current().await.map_err(|e| errors::from_store(&e)),
            _ => Ok(0),
        }
    }
}

/// The place of everything, and the exceptions.
pub(super) struct Places {
    home: Arc<Place>,
    event_ttl: Duration,
    /// Group, resource.
    elsewhere: Vec<(String, String, Arc<Place>)>,
}

impl Places {
    pub fn new(hub: Arc<Hub>, event_ttl: Duration) -> Self {
        Self { home: Arc::new(Place::new(hub, event_ttl)), event_ttl, elsewhere: Vec::new() }
    }

    /// Objects of these groups and resources lie behind another hub.
    pub fn add(&mut self, hub: Arc<Hub>, resources: &[(String, String)]) {
        let place = Arc::new(Place::new(hub, self.event_ttl));
        let rows = resources.iter().map(|(group, name)| (group.clone(), name.clone(), place.clone()));
        self.elsewhere.extend(rows);
    }

    pub fn home(&self) -> Arc<Place> {
        self.home.clone()
    }

    /// Where objects of a built-in resource lie.
    pub fn of(&self, group: &str, resource: &str) -> Arc<Place> {
        let named = self.elsewhere.iter().find(|(g, r, _)| g == group && r == resource);
        named.map_or_else(|| self.home(), |(.., place)| place.clone())
    }
}
