//! Linearizable reads: one round of asking the leader answers everybody who was waiting when it began.

use std::{sync::Arc, time::Duration};

use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use proto::raftpb::ReadIndexRequest;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::Member;
use crate::{error::Error, metrics::SERVER};

/// Reads that may wait for a round.
const WAITING_MAX: usize = 100_000;
/// Rounds on the way at once: a second may start while the first waits for the network.
const ROUNDS_MAX: usize = 2;
/// Pause before asking again when there is no leader.
const RETRY: Duration = Duration::from_millis(20);
/// A round slower than this is counted as slow.
const SLOW_ROUND: Duration = Duration::from_millis(100);

type Reply = oneshot::Sender<Result<u64, Error>>;

/// Where reads wait.
#[derive(Clone)]
pub struct ReadGate {
    queue: mpsc::Sender<Reply>,
}

/// The other end of a gate's queue.
pub struct ReadQueue {
    queue: mpsc::Receiver<Reply>,
}

impl ReadGate {
    /// A queue and its two ends.
    pub fn new() -> (Self, ReadQueue) {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        (Self { queue: sender }, ReadQueue { queue })
    }
}

impl ReadQueue {
    /// Runs rounds until the member stops.
    pub async fn run(mut self, member: Arc<Member>) {
        let rounds = Arc::new(tokio::sync::Semaphore::new(ROUNDS_MAX));
        while let Some(first) = self.queue.recv().await {
            let Ok(round) = rounds.clone().acquire_owned().await else { return };
            let mut waiting = vec![first];
            while let Ok(next) = self.queue.try_recv() {
                waiting.push(next);
            }
            let member = member.clone();
            tokio::spawn(async move {
                let started = Instant::now();
                let index = member.read_index().await;
                if started.elapsed() > SLOW_ROUND {
                    SERVER.slow_reads.inc();
                }
                for reply in waiting {
                    // A client that has gone away does not wait any more.
                    let _ = reply.send(index.clone());
                }
                drop(round);
            });
        }
    }
}

impl Member {
    /// Waits until the state here includes everything acknowledged anywhere before this call.
    pub async fn read_barrier(&self) -> Result<(), Error> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::Bug::StaleReads.is_planted() {
            return Ok(());
        }
        let (reply, index) = oneshot::channel();
        self.reads.queue.try_send(reply).map_err(|_| Error::REQUEST_TOO_MANY_REQUESTS)?;
        let index = index.await.unwrap_or(Err(Error::STOPPED))?;
        self.wait_applied(index).await
    }

    /// The index a linearizable read must wait for, from whoever leads.
    async fn read_index(&self) -> Result<u64, Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let attempt = match self.leader() {
                Some(leader) if leader == self.id => self.confirm_leadership().await,
                Some(leader) => self.ask_leader(leader).await,
                None => Err(Error::NO_LEADER),
            };
            match attempt {
                Ok(index) => return Ok(index),
                Err(error) if error == Error::STOPPED => return Err(error),
                // Asking again changes nothing, so any failure may be tried again.
                Err(_) if Instant::now() < deadline && !self.stop.is_cancelled() => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(if error == Error::NO_LEADER { error } else { Error::TIMEOUT }),
            }
        }
    }

    /// As the leader: proves that a majority still follows, and gives the index to wait for.
    pub(crate) async fn confirm_leadership(&self) -> Result<u64, Error> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read_log_id, _)) => Ok(read_log_id.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(Error::NOT_LEADER),
            Err(RaftError::APIError(_)) => Err(Error::NO_LEADER),
            Err(RaftError::Fatal(_)) => Err(Error::STOPPED),
        }
    }

    async fn ask_leader(&self, leader: u64) -> Result<u64, Error> {
        let node = self.node(leader).ok_or(Error::NO_LEADER)?;
        let mut client = self.peers.peer(&node.peer_urls)?;
        let mut request = tonic::Request::new(ReadIndexRequest {});
        request.set_timeout(self.config.election_timeout);
        Ok(client.read_index(request).await?.into_inner().index)
    }
}
