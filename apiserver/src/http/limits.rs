//! How much is served at the same time, and how large a body may be.

use machinery::status::StatusError;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::profile;
use crate::contract::RequestInfo;

/// Upstream's limit on bodies.
pub const BODY_LEN_MAX: usize = 3 * 1024 * 1024;
/// Seconds a refused client should wait.
const RETRY_SECS: u32 = 1;

/// In-flight limits; long-running requests are not counted.
pub struct Limits {
    readonly: Semaphore,
    mutating: Semaphore,
}

impl Limits {
    /// `--max-requests-inflight` and `--max-mutating-requests-inflight`.
    pub fn new(readonly: usize, mutating: usize) -> Self {
        Self { readonly: Semaphore::new(readonly), mutating: Semaphore::new(mutating) }
    }

    /// A place for one request, or 429. A place is waited for as long as a queue would hold the request: the caller's
    /// time-out bounds it.
    pub async fn enter(&self, is_mutating: bool) -> Result<SemaphorePermit<'_>, StatusError> {
        let semaphore = if is_mutating { &self.mutating } else { &self.readonly };
        let wait = tokio::time::timeout(QUEUE_TIMEOUT, semaphore.acquire());
        match wait.await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                Err(StatusError::too_many_requests("Too many requests, please try again later.", RETRY_SECS))
            }
        }
    }
}

/// Longer waits than this end in 429, so that clients spread to other servers.
const QUEUE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Requests that hold their connection and are not counted or timed out.
pub fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path.starts_with(profile::PREFIX);
    }
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}
