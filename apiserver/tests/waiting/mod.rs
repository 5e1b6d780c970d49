//! Waiting for what happens by itself.

use std::time::Duration;

/// Longest wait for what happens by itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
