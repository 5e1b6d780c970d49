//! Work that waits for the disk or computes for long, kept off the threads that serve requests.
//!
//! On a runtime of a single thread it runs in place: whoever chose one thread chose one order of events, and a
//! simulation replays only while nothing runs beside it.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::JoinError,
};

/// Whether everything happens on one thread here.
pub fn is_single_threaded() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}

/// Runs `work` on a thread of its own and waits for it. Fails when the work panics or the runtime ends.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if is_single_threaded() { Ok(work()) } else { tokio::task::spawn_blocking(work).await }
}

/// Runs `work` here, telling the runtime that this thread is busy for a while.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    if is_single_threaded() { work() } else { tokio::task::block_in_place(work) }
}
