//! How much is served at the same time, and how large a body may be.

use std::time::Duration;

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
    /// Longer waits than this end in 429, so that clients spread to other servers.
    wait_max: Duration,
}

/// The part of the time for a request that it may wait for a place (upstream's queues have the same).
const WAIT_SHARE: u32 = 4;

impl Limits {
    /// `--max-requests-inflight`, `--max-mutating-requests-inflight` (0 for no limit) and `--request-timeout`.
    pub fn new(readonly: usize, mutating: usize, request_timeout: Duration) -> Self {
        let places = |count| Semaphore::new(if count == 0 { Semaphore::MAX_PERMITS } else { count });
        Self {
            readonly: places(readonly),
            mutating: places(mutating),
            wait_max: request_timeout / WAIT_SHARE,
        }
    }

    /// A place for one request, or 429.
    pub async fn enter(&self, is_mutating: bool) -> Result<SemaphorePermit<'_>, StatusError> {
        let semaphore = if is_mutating { &self.mutating } else { &self.readonly };
        let wait = tokio::time::timeout(self.wait_max, semaphore.acquire());
        match wait.await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                Err(StatusError::too_many_requests("Too many requests, please try again later.", RETRY_SECS))
            }
        }
    }
}

/// Requests that hold their connection and are not counted or timed out.
pub fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path.starts_with(profile::PREFIX);
    }
    matches!(info.verb.as_str(), "watch" | "proxy")
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}
