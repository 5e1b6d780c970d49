//! What each kind means: computed defaults, what the server fills in, validation and update rules.
//!
//! Rules that are data stand in `tables/rules.tsv` and the machinery's tables; a kind's functions hold the rest. The
//! table of kinds is built once; resources without a row have no rules beyond the tables.

pub mod aggregation;
pub mod apps;
pub mod at;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod checks;
pub mod config;
pub mod devices;
pub mod endpoints;
pub mod events;
pub mod flowcontrol;
pub mod json;
pub mod kind;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod pod;
pub mod quota;
pub mod rbac;
pub mod registration;
pub mod rules;
pub mod service;
pub mod small;
pub mod storage;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::alloc::Allocators;
use crate::contract::KindHooks;
use kind::Kind;

/// Every stateless row of the table.
const TABLES: &[&[Kind]] = &[
    namespace::KINDS,
    pod::hooks::KINDS,
    apps::KINDS,
    batch::KINDS,
    config::KINDS,
    node::KINDS,
    quota::KINDS,
    rbac::KINDS,
    networking::KINDS,
    storage::KINDS,
    autoscaling::KINDS,
    certificates::KINDS,
    endpoints::KINDS,
    events::KINDS,
    small::KINDS,
    devices::KINDS,
    flowcontrol::KINDS,
    registration::KINDS,
    aggregation::KINDS,
];

/// The hooks of all built-in kinds.
pub struct Kinds {
    hooks: FxHashMap<(&'static str, &'static str, &'static str), Arc<dyn KindHooks>>,
}

impl Kinds {
    /// The table, with the allocators that services claim from.
    pub fn new(allocators: Arc<Allocators>) -> Self {
        let mut hooks: FxHashMap<_, Arc<dyn KindHooks>> = FxHashMap::default();
        for kind in TABLES.iter().copied().flatten() {
            hooks.insert((kind.group, kind.resource, kind.subresource), Arc::new(*kind));
        }
        hooks.insert(("", "services", ""), Arc::new(service::hooks::ServiceHooks { allocators }));
        let status = Kind { check: service::hooks::status_check, ..Kind::sub("", "services", "status") };
        hooks.insert(("", "services", "status"), Arc::new(status));
        Kinds { hooks }
    }

    /// The hooks of a resource or subresource of any version; none where the tables suffice.
    pub fn hooks(&self, group: &str, resource: &str, subresource: &str) -> Option<Arc<dyn KindHooks>> {
        let hooks: &FxHashMap<(&str, &str, &str), Arc<dyn KindHooks>> = &self.hooks;
        hooks.get(&(group, resource, subresource)).cloned()
    }
}
