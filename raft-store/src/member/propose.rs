//! Getting commands into the log: many clients' commands in one entry, at the leader wherever it is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    errors::{ClientWriteError, Fatal, RaftError},
    impls::ProgressResponder,
    raft::ClientWriteResponse,
};
use prost::Message;
use proto::raftpb::{Answer, Batch, Command, ProposeRequest, ProposeResult};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Member,
    gather::{Gather, Joined},
    standing::Standpoint,
};
use crate::{
    error::Error,
    metrics::SERVER,
    raft::{
        peers::was_never_sent,
        types::{Proposal, TypeConfig},
    },
};

/// Commands that may wait for their entry; beyond it clients are told to come back.
const WAITING_MAX: usize = 20_000;
/// Commands in one entry.
const BATCH_COMMANDS_MAX: usize = 2_000;
/// Bytes of one entry. A single larger command still gets its own.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Entries on the way at once: enough to keep the disk and the network busy, few enough that commands
/// gather while they wait.
const IN_FLIGHT_MAX: usize = 4;
/// A proposal slower than this is reported.
const SLOW_PROPOSAL: Duration = Duration::from_millis(500);
/// Pause before asking again who leads.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// An answer, and the index of the log entry that carried its command.
type Reply = oneshot::Sender<Result<(Answer, u64), Error>>;

/// One command and who waits for its answer.
pub struct Waiting {
    command: Command,
    reply: Reply,
    since: Instant,
}

/// Where commands gather.
pub struct Proposals(Gather<Waiting>);

impl Default for Proposals {
    fn default() -> Self {
        Self(Gather::new(WAITING_MAX, IN_FLIGHT_MAX))
    }
}

impl Proposals {
    /// Nothing is proposed any more.
    pub fn close(&self) {
        self.0.close();
    }

    fn take(&self) -> Option<(Vec<Command>, Vec<Reply>, Instant)> {
        let (mut commands, mut bytes) = (0, 0);
        let batch = self.0.take(|waiting| {
            commands += 1;
            bytes += waiting.command.encoded_len();
            commands <= BATCH_COMMANDS_MAX && bytes <= BATCH_BYTES_MAX
        })?;
        let since = batch.first()?.since;
        let (commands, replies) = batch.into_iter().map(|waiting| (waiting.command, waiting.reply)).unzip();
        Some((commands, replies, since))
    }
}

/// What openraft says of a write.
type WriteResult =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// The results of one entry's commands, and its index.
type Applied = (Vec<Result<Answer, Error>>, u64);

/// A proposal that is counted as pending until it is answered, or whoever waited for it has gone.
struct Pending;

impl Pending {
    fn begin() -> Self {
        SERVER.pending.inc();
        Self
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        SERVER.pending.dec();
    }
}

/// Why an attempt to propose failed.
enum Failure {
    /// Nothing reached a log: try again, perhaps elsewhere.
    Retry,
    /// It may or may not have happened: the client must be told.
    Final(Error),
}

fn answer(results: Result<Applied, Error>, replies: Vec<Reply>) {
    match results {
        Ok((results, index)) => {
            for (result, reply) in results.into_iter().zip(replies) {
                // A client that has gone away does not hear its answer.
                let _ = reply.send(result.map(|answer| (answer, index)));
            }
        }
        Err(error) => {
            SERVER.failed.inc_by(replies.len() as u64);
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

impl Member {
    /// Proposes a command and waits until it is applied here.
    pub(crate) async fn propose(&self, command: Command) -> Result<Answer, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::STOPPED);
        }
        let (reply, answer) = oneshot::channel();
        match self.proposals.0.join(Waiting { command, reply, since: Instant::now() }) {
            Joined::Full => return Err(Error::REQUEST_TOO_MANY_REQUESTS),
            Joined::Closed => return Err(Error::STOPPED),
            Joined::Waits => {}
            Joined::MustRun => self.spawn_beside_consensus(self.handle()?.run_proposals()),
        }
        let _pending = Pending::begin();
        let (answer, index) = answer.await.unwrap_or(Err(Error::STOPPED))?;
        tracing::Span::current().record("index", index);
        Ok(answer)
    }

    /// Proposes all that wait, again and again, until nobody does.
    async fn run_proposals(self: Arc<Self>) {
        while let Some((commands, replies, since)) = self.proposals.take() {
            let begun = Instant::now();
            let results = self.propose_batch(commands).await;
            if since.elapsed() > SLOW_PROPOSAL {
                // Slow syncs and applies name themselves; what is left is the way to the leader and a majority.
                tracing::warn!(
                    waited_millis = (begun - since).as_millis() as u64,
                    took_millis = begun.elapsed().as_millis() as u64,
                    commands = replies.len(),
                    here = self.is_leader(),
                    index = results.as_ref().map_or(0, |(_, index)| *index),
                    "slow proposal"
                );
            }
            answer(results, replies);
        }
    }

    /// Proposes commands as one entry, here or at the leader; the answers come once they are applied here.
    async fn propose_batch(&self, commands: Vec<Command>) -> Result<Applied, Error> {
        let batch = Batch { commands };
        let mut wire = None;
        let deadline = tokio::time::Instant::now() + self.config.request_timeout();
        loop {
            let attempt = match self.leader() {
                Some(leader) if leader == self.id => {
                    let wire = wire.get_or_insert_with(|| Bytes::from(batch.encode_to_vec()));
                    self.write(wire.clone()).await
                }
                Some(leader) => self.forward(leader, batch.commands.clone()).await,
                None => Err(Failure::Retry),
            };
            match attempt {
                Ok(results) => return Ok(results),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Retry) if tokio::time::Instant::now() > deadline => return Err(Error::TIMEOUT),
                Err(Failure::Retry) => {
                    tokio::select! {
                        () = tokio::time::sleep(LEADER_POLL) => {}
                        () = self.stop.cancelled() => return Err(Error::STOPPED),
                    }
                }
            }
        }
    }

    /// Writes an entry as the leader; also gives its log index.
    async fn write(&self, wire: Bytes) -> Result<Applied, Failure> {
        self.written(self.raft.client_write(Proposal { wire })).await
    }

    async fn written(&self, writing: impl Future<Output = WriteResult>) -> Result<Applied, Failure> {
        // The entry is in the log by then, so its fate is unknown.
        let written = tokio::time::timeout(self.config.request_timeout(), writing)
            .await
            .map_err(|_| Failure::Final(Error::TIMEOUT))?;
        match written {
            Ok(response) => Ok((response.data.results, response.log_id.index())),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Failure::Retry),
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(Failure::Final(Error::LEADER_CHANGED))
            }
            Err(RaftError::APIError(error)) => Err(Failure::Final(Error::internal(error))),
            Err(RaftError::Fatal(error)) => {
                tracing::error!(%error, "the consensus core has stopped");
                Err(Failure::Final(Error::STOPPED))
            }
        }
    }

    /// Has the leader write an entry, and waits until it is applied here too.
    async fn forward(&self, leader: u64, commands: Vec<Command>) -> Result<Applied, Failure> {
        let node = self.node(leader).ok_or(Failure::Retry)?;
        let mut client = self.peers.peer(&node.peer_urls).map_err(Failure::Final)?;
        let mut request = tonic::Request::new(ProposeRequest { commands });
        request.set_timeout(self.config.request_timeout());
        let answer = tokio::select! {
            answer = client.propose(request) => answer,
            // A leader that is paused or cut off does not say so: those behind this entry are not to wait for it.
            () = self.deposed(leader) => return Err(Failure::Final(Error::LEADER_CHANGED)),
        };
        let response = answer.map_err(|status| {
            if was_never_sent(&status) {
                // A leader that has just died: there will be another.
                return Failure::Retry;
            }
            let error = Error::from(status);
            match &error {
                // It said so before it wrote anything.
                error if *error == Error::NOT_LEADER => Failure::Retry,
                error if error.text().starts_with("etcdserver:") => Failure::Final(error.clone()),
                _ => Failure::Final(Error::TIMEOUT_DUE_TO_CONNECTION_LOST),
            }
        })?;
        let response = response.into_inner();
        self.wait_applied(response.index).await.map_err(Failure::Final)?;
        Ok((response.results.into_iter().map(unpack).collect(), response.index))
    }

    /// Writes an entry for another member. `NOT_LEADER` says that nothing was written.
    pub(crate) async fn propose_for_peer(
        &self,
        commands: Vec<Command>,
    ) -> Result<(Vec<ProposeResult>, u64), Error> {
        let wire = Bytes::from(Batch { commands }.encode_to_vec());
        if !self.is_leader() {
            return Err(Error::NOT_LEADER);
        }
        match self.write(wire).await {
            Ok((results, index)) => Ok((results.into_iter().map(pack).collect(), index)),
            Err(Failure::Retry) => Err(Error::NOT_LEADER),
            Err(Failure::Final(error)) => Err(error),
        }
    }

    /// Writes an entry as the leader of `term`. `NOT_LEADER` says that nothing was written: this member leads no more, or
    /// again.
    pub(crate) async fn propose_in_term(&self, command: Command, term: u64) -> Result<(), Error> {
        let wire = Bytes::from(Batch { commands: vec![command] }.encode_to_vec());
        let writing = async {
            let (responder, written) = ProgressResponder::complete_only();
            let request = self.raft.write(Proposal { wire }).with_leader(term).responder(responder);
            request.await.map_err(RaftError::Fatal)?;
            let written = written.await.map_err(|_| RaftError::Fatal(Fatal::Stopped))?;
            written.map_err(RaftError::APIError)
        };
        match self.written(writing).await {
            Ok(_) => Ok(()),
            Err(Failure::Retry) => Err(Error::NOT_LEADER),
            Err(Failure::Final(error)) => Err(error),
        }
    }

    /// Waits until another leads than this one.
    pub(crate) async fn deposed(&self, leader: u64) {
        let mut standing = self.standing.subscribe();
        let other = |standing: &Standpoint| standing.leader.is_some_and(|now| now != leader);
        if standing.wait_for(other).await.is_err() {
            // Nobody tells any more: whoever waits beside this has a limit of his own.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until some leader is known.
    pub(crate) async fn wait_leader(&self) -> Result<u64, Error> {
        if let Some(leader) = self.leader() {
            return Ok(leader);
        }
        let mut standing = self.standing.subscribe();
        let waiting = async {
            let found = standing.wait_for(|standing| standing.leader.is_some()).await;
            found.ok().and_then(|standing| standing.leader).ok_or(Error::STOPPED)
        };
        tokio::time::timeout(self.config.request_timeout(), waiting).await.unwrap_or(Err(Error::NO_LEADER))
    }
}

fn pack(result: Result<Answer, Error>) -> ProposeResult {
    match result {
        Ok(answer) => ProposeResult { answer: Some(answer), code: 0, message: String::new() },
        Err(error) => {
            ProposeResult { answer: None, code: error.code() as i32, message: error.text().to_owned() }
        }
    }
}

fn unpack(result: ProposeResult) -> Result<Answer, Error> {
    match result.code {
        0 => result.answer.ok_or_else(|| Error::internal("an answer without content")),
        code => Err(Error::new(tonic::Code::from_i32(code), result.message)),
    }
}

#[cfg(test)]
mod tests {
    use proto::raftpb::command::Op;

    use super::*;
    use crate::{config::Config, member::Caller};

    const ABANDONED: usize = 1_000;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_goes_away_leaves_no_proposal_pending() {
        let dir = tempfile::tempdir().unwrap();
        let member = Member::start(Config::embedded(dir.path())).await.unwrap();
        member.wait_leader().await.unwrap();
        for _ in 0..ABANDONED {
            let command = Caller::trusted().command(Op::Compact(Default::default()));
            let waiting = std::pin::pin!(member.propose(command));
            let _ = futures::poll!(waiting);
        }
        // Other tests of this process may have some of their own.
        assert!((SERVER.pending.get() as usize) < ABANDONED / 2, "{} are pending", SERVER.pending.get());
        member.shutdown().await;
    }
}
