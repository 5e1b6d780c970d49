//! Threads for consensus alone: its core, its connections to peers, and applying.
//!
//! A write passes through half a dozen tasks of consensus. On one worker they hand over without waking another
//! processor, which on a small machine costs more than the work itself; and however busy the rest of the process is,
//! heartbeats go out in time. In a simulation, where everything runs on one thread, consensus does so, too.

use std::io;

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinError,
};

use crate::blocking;

/// Where consensus runs.
pub struct ConsensusThread {
    own: Option<Runtime>,
    handle: Handle,
}

impl ConsensusThread {
    /// Starts the thread. Must be called within a runtime.
    pub fn start() -> io::Result<Self> {
        if blocking::is_single_threaded() {
            return Ok(Self { own: None, handle: Handle::current() });
        }
        let own = Builder::new_multi_thread().worker_threads(1).thread_name("raft").enable_all().build()?;
        Ok(Self { handle: own.handle().clone(), own: Some(own) })
    }

    /// What is spawned on it runs there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `work` there, with all it spawns, and waits for it. Fails when it panics or the thread is stopped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        self.handle.spawn(work).await
    }
}

impl Drop for ConsensusThread {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            own.shutdown_background();
        }
    }
}
