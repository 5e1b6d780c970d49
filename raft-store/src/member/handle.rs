//! The member's handle and what all its parts share.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use proto::etcdserverpb::{AlarmType, ResponseHeader};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{propose::Proposer, read::ReadGate};
use crate::{
    config::Config,
    error::Error,
    machine::Shared,
    raft::{
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
    pub(crate) proposer: Proposer,
    pub(crate) reads: ReadGate,
    /// The state has reached its quota, or the disk its reserve.
    pub(crate) is_full: AtomicBool,
    pub(crate) seen_term: AtomicU64,
    pub(crate) seen_voting: AtomicBool,
    /// Cancelled when the others say that this member is none of theirs any more.
    pub(crate) removed: CancellationToken,
    /// History has been cleaned up to here.
    pub(crate) cleaned: watch::Sender<i64>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Open files; waited for when the member stops, so that its directory is free afterwards.
    pub(crate) files: TaskTracker,
    pub(crate) lock: Mutex<Option<File>>,
}

impl Member {
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

    /// The leader, as far as this member knows.
    pub fn leader(&self) -> Option<MemberId> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.id)
    }

    /// The current term, as it stood a moment ago: it only goes into headers.
    pub fn term(&self) -> u64 {
        self.seen_term.load(Ordering::Relaxed)
    }

    /// Keeps what every request looks at where looking is cheap. Runs until the consensus core ends.
    pub(crate) async fn follow_standing(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        loop {
            self.seen_term.store(metrics.borrow_watched().current_term, Ordering::Relaxed);
            self.seen_voting.store(self.votes_now(), Ordering::Relaxed);
            if metrics.changed().await.is_err() {
                return;
            }
        }
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
        let mut metrics = self.raft.metrics();
        while metrics.borrow_watched().running_state.is_ok() {
            tokio::select! {
                () = self.removed.cancelled() => return "the member was removed from the cluster",
                changed = metrics.changed() => if changed.is_err() { break },
            }
        }
        "the member's disk or log failed; see the log above"
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
        self.seen_voting.load(Ordering::Relaxed)
    }

    fn votes_now(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.voter_ids();
        voters.any(|id| id == self.id) || metrics.membership_config.get_node(&self.id).is_none()
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
