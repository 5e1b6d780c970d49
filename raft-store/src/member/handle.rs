//! The member's handle and what all its parts share.

use std::{
    fs::File,
    sync::{Arc, Weak},
};

use openraft::{Instant, async_runtime::WatchReceiver};
use parking_lot::Mutex;
use proto::etcdserverpb::{AlarmType, ResponseHeader};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    consensus_thread::ConsensusThread, propose::Proposals, read::Reads, space::Space, standing::Standing,
};
use crate::{
    config::Config,
    error::Error,
    machine::Shared,
    raft::{
        haste::Haste,
        heard::Heard,
        peers::Peers,
        types::{MemberId, MemberNode, Raft},
    },
    storage::View,
    watch::{Hub, WatchStream},
};

/// A running member. Dropping the handle does not stop it: call `shutdown`.
pub struct Member {
    pub(crate) config: Config,
    pub(crate) cluster_id: u64,
    pub(crate) id: MemberId,
    pub(crate) raft: Raft,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) peers: Peers,
    /// This handle, for work that outlives the request that starts it.
    pub(crate) this: Weak<Member>,
    pub(crate) proposals: Proposals,
    /// Reads that ask whoever leads.
    pub(crate) reads: Reads,
    /// Reads, of this member and its followers, that wait for the leader to prove that it leads.
    pub(crate) leader_reads: Reads,
    pub(crate) space: Space,
    /// Where the member stands in its cluster.
    pub(crate) standing: Standing,
    /// Cancelled when the others say that this member is none of theirs any more.
    pub(crate) removed: CancellationToken,
    /// Somebody said that it may have been.
    pub(crate) doubted: Notify,
    /// Cancelled when a damaged file was found.
    pub(crate) damaged: CancellationToken,
    /// When a leader was last heard of.
    pub(crate) heard: Arc<Heard>,
    /// Held while a change of the membership, which may take two steps, is under way here.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Whether followers wait for commits.
    pub(crate) haste: Haste,
    /// History has been cleaned up to here.
    pub(crate) cleaned: watch::Sender<i64>,
    /// To run work where consensus runs.
    pub(crate) beside_consensus: Handle,
    /// Stopped last, when nothing of consensus runs any more.
    pub(crate) consensus: Mutex<Option<ConsensusThread>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Open files; waited for when the member stops, so that its directory is free afterwards.
    pub(crate) files: TaskTracker,
    pub(crate) lock: Mutex<Option<File>>,
}

impl Member {
    /// A handle that keeps the member alive.
    pub(crate) fn handle(&self) -> Result<Arc<Self>, Error> {
        self.this.upgrade().ok_or(Error::STOPPED)
    }

    /// Runs `work` on the thread of consensus: what waits for consensus there is woken without another processor, and
    /// whoever asked is woken once, with the answer.
    pub(crate) fn spawn_beside_consensus(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.beside_consensus.spawn(work));
    }

    /// This member's id.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The newest applied state.
    pub fn view(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// The newest applied state, to answer from. Taken before it is asked whether the member stops: one that has stopped
    /// shows an empty state, and nothing in it is no answer.
    pub(crate) fn readable(&self) -> Result<Arc<View>, Error> {
        let view = self.view();
        if self.stop.is_cancelled() { Err(Error::STOPPED) } else { Ok(view) }
    }

    /// The leader, as far as this member knows. A leader nobody hears of, or that hears of no majority, is none: the
    /// consensus core remembers it until another is elected.
    pub fn leader(&self) -> Option<MemberId> {
        let patience = self.config.election_timeout * 2;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let alive = if leader == self.id {
            let alone = metrics.membership_config.voter_ids().eq([self.id]);
            alone || metrics.last_quorum_acked.is_none_or(|acked| acked.elapsed() < patience)
        } else {
            self.heard.elapsed() < patience
        };
        alive.then_some(leader)
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.id)
    }

    /// The current term, as it stood a moment ago: it only goes into headers.
    pub fn term(&self) -> u64 {
        self.standing.term()
    }

    /// Every member with its place in the membership; `true` for learners.
    pub(crate) fn nodes(&self) -> Vec<(MemberId, MemberNode, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let voters: Vec<MemberId> = membership.voter_ids().collect();
        membership.nodes().map(|(id, node)| (*id, node.clone(), !voters.contains(id))).collect()
    }

    /// How to reach a member.
    pub(crate) fn node(&self, id: MemberId) -> Option<MemberNode> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&id).cloned()
    }

    /// Completes an answer's header.
    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.id,
            revision,
            raft_term: self.term(),
        })
    }

    /// Opens a watch stream.
    pub fn watch_stream(&self) -> WatchStream {
        self.hub.stream()
    }

    /// Waits until the log has been applied up to `index` here.
    pub(crate) async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        if *self.shared.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.shared.applied.subscribe();
        let waiting = applied.wait_for(|applied| *applied >= index);
        match tokio::time::timeout(self.config.request_timeout(), waiting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::STOPPED),
            Err(_) => Err(Error::TIMEOUT_WAIT_APPLIED_INDEX),
        }
    }

    /// Returns once the member cannot go on, and says why: its disk failed, or it was removed.
    pub async fn failed(&self) -> &'static str {
        let mut standing = self.standing.subscribe();
        tokio::select! {
            () = self.removed.cancelled() => "the member was removed from the cluster",
            () = self.damaged.cancelled() => "the member's files are damaged; see the log above",
            // An error says that the member itself is gone.
            _ = standing.wait_for(|standing| !standing.runs) => "the member's disk or log failed; see the log above",
        }
    }

    /// Whether the others have taken this member out of the cluster.
    pub fn was_removed(&self) -> bool {
        self.removed.is_cancelled()
    }

    /// Is cancelled when the member stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Member {
    /// Whether this member votes, as it stood a moment ago.
    pub(crate) fn votes(&self) -> bool {
        self.standing.votes()
    }

    /// Whether the consensus core still works.
    pub(crate) fn raft_is_running(&self) -> bool {
        self.raft.metrics().borrow_watched().running_state.is_ok()
    }

    /// The kinds of alarm that are on.
    pub(crate) fn raised_alarms(&self) -> Vec<AlarmType> {
        let alarms = self.shared.alarms.load();
        [AlarmType::Nospace, AlarmType::Corrupt].into_iter().filter(|kind| alarms.any(*kind)).collect()
    }
}
