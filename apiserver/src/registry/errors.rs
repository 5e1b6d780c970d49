//! Failures of store and cache as the API words them.

use machinery::status::{Reason, StatusError};

use crate::cache::CacheError;
use crate::storage::StoreError;

/// Seconds a client should wait when the store is away.
const RETRY_SECS: u32 = 1;

/// A store failure during `operation` on a resource.
pub fn from_store(error: &StoreError) -> StatusError {
    match error {
        StoreError::Compacted(_) => expired("The provided resource version is too old to be read."),
        StoreError::Unavailable(_) | StoreError::Timeout(_) => {
            StatusError::timeout(format!("storage is not available: {error}"), RETRY_SECS)
        }
        StoreError::TooLarge(why) => StatusError::request_entity_too_large(format!("etcdserver: {why}")),
        StoreError::FutureRevision | StoreError::Other(_) => StatusError::internal(error),
    }
}

/// A cache failure.
pub fn from_cache(error: &CacheError) -> StatusError {
    match error {
        CacheError::TooOld { .. } => StatusError::new(410, Reason::Expired, error.to_string(), None),
        CacheError::TooLarge { asked, current } => {
            StatusError::too_large_resource_version(u(*asked), u(*current), RETRY_SECS)
        }
        // A definition has just changed: the same request finds the new cache.
        CacheError::Stopped => StatusError::too_many_requests(error.to_string(), RETRY_SECS),
        CacheError::Store(error) => from_store(error),
    }
}

fn u(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// 410 with this message.
pub fn expired(message: &str) -> StatusError {
    StatusError::expired(message)
}
