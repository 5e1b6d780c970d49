//! Getting commands into the log: many clients' commands in one entry, at the leader wherever it is.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use prost::Message;
use proto::raftpb::{Answer, Batch, Command, ProposeRequest, ProposeResult};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Member;
use crate::{error::Error, metrics::SERVER, raft::types::Proposal};

/// Commands that may wait for their entry; beyond it clients are told to come back.
const WAITING_MAX: usize = 20_000;
/// Commands in one entry.
const BATCH_COMMANDS_MAX: usize = 2_000;
/// Bytes of one entry. A single larger command still gets its own.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Entries on the way at once: enough to keep the disk and the network busy, few enough that commands
/// gather while they wait.
const IN_FLIGHT_MAX: usize = 4;
/// Pause before asking again who leads.
const LEADER_POLL: Duration = Duration::from_millis(20);

type Reply = oneshot::Sender<Result<Answer, Error>>;

/// One command and who waits for its answer.
pub struct Waiting {
    command: Command,
    reply: Reply,
}

/// Takes commands. Clones feed the same queue.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

/// The other end of a proposer's queue.
pub struct ProposerQueue {
    queue: mpsc::Receiver<Waiting>,
}

impl Proposer {
    /// A queue and its two ends.
    pub fn new() -> (Self, ProposerQueue) {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        (Self { queue: sender }, ProposerQueue { queue })
    }

    /// Proposes a command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { command, reply };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::REQUEST_TOO_MANY_REQUESTS,
            mpsc::error::TrySendError::Closed(_) => Error::STOPPED,
        })?;
        SERVER.pending.inc();
        let result = answer.await.unwrap_or(Err(Error::STOPPED));
        SERVER.pending.dec();
        result
    }
}

/// Why an attempt to propose failed.
enum Failure {
    /// Nothing reached a log: try again, perhaps elsewhere.
    Retry,
    /// It may or may not have happened: the client must be told.
    Final(Error),
}

impl ProposerQueue {
    /// Gathers commands into entries until the member stops.
    pub async fn run(mut self, member: Arc<Member>) {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        while let Some(first) = self.queue.recv().await {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (commands, replies) = self.gather(first);
            let member = member.clone();
            tokio::spawn(async move {
                let results = member.propose_batch(commands, Some(slot)).await;
                answer(results, replies);
            });
        }
    }

    fn gather(&mut self, first: Waiting) -> (Vec<Command>, Vec<Reply>) {
        let mut bytes = first.command.encoded_len();
        let (mut commands, mut replies) = (vec![first.command], vec![first.reply]);
        while commands.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.command.encoded_len();
            commands.push(next.command);
            replies.push(next.reply);
        }
        (commands, replies)
    }
}

fn answer(results: Result<Vec<Result<Answer, Error>>, Error>, replies: Vec<Reply>) {
    match results {
        Ok(results) => {
            for (result, reply) in results.into_iter().zip(replies) {
                // A client that has gone away does not hear its answer.
                let _ = reply.send(result);
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
        self.proposer.propose(command).await
    }

    /// Proposes commands as one entry, here or at the leader; the answers come once they are applied here.
    async fn propose_batch(
        &self,
        commands: Vec<Command>,
        slot: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let batch = Batch { commands };
        let wire = Bytes::from(batch.encode_to_vec());
        let mut batch = Some(batch);
        let deadline = tokio::time::Instant::now() + self.config.request_timeout();
        let _slot = slot;
        loop {
            let attempt = match self.leader() {
                Some(leader) if leader == self.id => {
                    self.write(wire.clone()).await.map(|(results, _)| results)
                }
                Some(leader) => {
                    let commands = match batch.take() {
                        Some(batch) => batch.commands,
                        None => Batch::decode(wire.clone()).map_err(Error::internal)?.commands,
                    };
                    self.forward(leader, commands).await
                }
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
    async fn write(&self, wire: Bytes) -> Result<(Vec<Result<Answer, Error>>, u64), Failure> {
        let writing = self.raft.client_write(Proposal { wire });
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
    async fn forward(
        &self,
        leader: u64,
        commands: Vec<Command>,
    ) -> Result<Vec<Result<Answer, Error>>, Failure> {
        let node = self.node(leader).ok_or(Failure::Retry)?;
        let mut client = self.peers.peer(&node.peer_urls).map_err(Failure::Final)?;
        let mut request = tonic::Request::new(ProposeRequest { commands });
        request.set_timeout(self.config.request_timeout());
        let response = client.propose(request).await.map_err(|status| {
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
        Ok(response.results.into_iter().map(unpack).collect())
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

    /// Waits until some leader is known.
    pub(crate) async fn wait_leader(&self) -> Result<u64, Error> {
        let mut metrics = self.raft.metrics();
        let waiting = async {
            loop {
                if let Some(leader) = metrics.borrow_watched().current_leader {
                    return Ok(leader);
                }
                metrics.changed().await.map_err(|_| Error::STOPPED)?;
            }
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
