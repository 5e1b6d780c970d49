//! Linearizable reads: one round of asking the leader answers everybody who was waiting when it began.

use std::{sync::Arc, time::Duration};

use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use proto::raftpb::ReadIndexRequest;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Member,
    gather::{Gather, Joined},
};
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

/// Where reads gather until a round of asking takes them along.
pub struct Reads(Gather<Reply>);

impl Default for Reads {
    fn default() -> Self {
        Self(Gather::new(WAITING_MAX, ROUNDS_MAX))
    }
}

impl Reads {
    /// Nothing is asked any more.
    pub fn close(&self) {
        self.0.close();
    }
}

fn answer(waiting: Vec<Reply>, index: &Result<u64, Error>) {
    for reply in waiting {
        // A client that has gone away does not wait any more.
        let _ = reply.send(index.clone());
    }
}

impl Member {
    /// Waits until the state here includes everything acknowledged anywhere before this call.
    pub async fn read_barrier(&self) -> Result<(), Error> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::Bug::StaleReads.is_planted() {
            return Ok(());
        }
        if self.standing.leader() == Some(self.id)
            && let Ok(index) = self.leader_read_index().await
        {
            return self.wait_applied(index).await;
        }
        let (reply, index) = oneshot::channel();
        match self.reads.0.join(reply) {
            Joined::Full => return Err(Error::REQUEST_TOO_MANY_REQUESTS),
            Joined::Closed => return Err(Error::STOPPED),
            Joined::Waits => {}
            Joined::MustRun => self.spawn_beside_consensus(self.handle()?.run_reads()),
        }
        let index = index.await.unwrap_or(Err(Error::STOPPED))?;
        self.wait_applied(index).await
    }

    /// Asks for all that wait, again and again, until nobody does.
    async fn run_reads(self: Arc<Self>) {
        while let Some(waiting) = self.reads.0.take(|_| true) {
            let started = Instant::now();
            let index = self.read_index().await;
            if started.elapsed() > SLOW_ROUND {
                SERVER.slow_reads.inc();
            }
            if index.is_err() {
                SERVER.failed_reads.inc();
            }
            answer(waiting, &index);
        }
    }

    /// As the leader: the index a read must wait for, proved in a round shared with this member's other reads and
    /// with those of its followers.
    pub(crate) async fn leader_read_index(&self) -> Result<u64, Error> {
        let (reply, index) = oneshot::channel();
        match self.leader_reads.0.join(reply) {
            Joined::Full => return Err(Error::REQUEST_TOO_MANY_REQUESTS),
            Joined::Closed => return Err(Error::STOPPED),
            Joined::Waits => {}
            Joined::MustRun => self.spawn_beside_consensus(self.handle()?.run_leader_reads()),
        }
        index.await.unwrap_or(Err(Error::STOPPED))
    }

    async fn run_leader_reads(self: Arc<Self>) {
        while let Some(waiting) = self.leader_reads.0.take(|_| true) {
            answer(waiting, &self.confirm_leadership().await);
        }
    }

    /// The index a linearizable read must wait for, from whoever leads.
    async fn read_index(&self) -> Result<u64, Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let attempt = match self.leader() {
                Some(leader) if leader == self.id => self.leader_read_index().await,
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
    async fn confirm_leadership(&self) -> Result<u64, Error> {
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
        tokio::select! {
            answer = client.read_index(request) => Ok(answer?.into_inner().index),
            // A leader that is paused or cut off does not say so.
            () = self.deposed(leader) => Err(Error::LEADER_CHANGED),
        }
    }
}
