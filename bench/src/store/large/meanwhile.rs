//! What writers feel while something large happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{Client, Error};

use super::super::{Result, load::closed_loop_while};
use super::{WRITERS, put_writers};
use crate::table::Sample;

/// Runs `task`, and writers beside it exactly as long.
pub async fn meanwhile<T: Send + 'static>(
    connections: &[Client],
    task: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
) -> Result<(T, Sample)> {
    let ended = Arc::new(AtomicBool::new(false));
    let tell = ended.clone();
    let task = tokio::spawn(async move {
        let done = task.await;
        tell.store(true, Ordering::Relaxed);
        done
    });
    let go_on = move || !ended.load(Ordering::Relaxed);
    let felt = closed_loop_while(connections, WRITERS, go_on, put_writers).await?;
    Ok((task.await??, felt))
}
