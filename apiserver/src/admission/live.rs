//! Lists for steps that limit what a namespace may have. Where the cache shows nothing, the store is asked whether there
//! really is nothing: limits and quotas that another server has just acknowledged hold for the next request.
//!
//! A namespace without any is asked about once in a while only, for most have none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use machinery::status::StatusError;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::contract::{ClusterReader, Object};

/// For so long an empty answer of the store is remembered; meanwhile the cache alone is asked (upstream's).
const TTL: Duration = Duration::from_secs(30);
/// Namespaces remembered (upstream's); beyond, all are forgotten, which costs a read each.
const NAMESPACES_MAX: usize = 10_000;

/// One resource's lists.
pub struct LiveLists {
    resource: &'static str,
    /// When the store was last found to have none in a namespace.
    empty: Mutex<FxHashMap<String, Instant>>,
}

impl LiveLists {
    /// Lists of a resource of the core group.
    pub fn of(resource: &'static str) -> Self {
        Self { resource, empty: Mutex::default() }
    }

    /// The objects of a namespace.
    ///
    /// # Errors
    /// When it cannot be known whether there are any.
    pub async fn list(
        &self,
        cluster: &dyn ClusterReader,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, StatusError> {
        let cached = cluster.list("", self.resource, namespace).await?;
        let is_known = || self.empty.lock().get(namespace).is_some_and(|at| at.elapsed() < TTL);
        if !cached.is_empty() || is_known() {
            return Ok(cached);
        }
        let current = cluster.list_current("", self.resource, namespace).await?;
        if current.is_empty() {
            let mut empty = self.empty.lock();
            if empty.len() >= NAMESPACES_MAX {
                empty.clear();
            }
            empty.insert(namespace.to_owned(), Instant::now());
        }
        Ok(current)
    }
}
