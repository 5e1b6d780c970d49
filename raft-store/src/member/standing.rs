//! Where a member stands in its cluster, kept where looking is cheap and told only when it changes.
//!
//! The consensus core's own metrics change several times a write; whoever waited on them would wake for each.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use super::Member;
use crate::raft::types::MemberId;

/// What is known at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// Who leads.
    pub leader: Option<MemberId>,
    /// The current term.
    pub term: u64,
    /// Whether this member votes. A member that has heard of no membership yet may.
    pub votes: bool,
    /// Whether the consensus core works.
    pub runs: bool,
}

/// The newest standpoint.
pub struct Standing(watch::Sender<Standpoint>);

impl Default for Standing {
    fn default() -> Self {
        Self(watch::Sender::new(Standpoint { leader: None, term: 0, votes: true, runs: true }))
    }
}

impl Standing {
    /// Who leads, as it stood a moment ago.
    pub fn leader(&self) -> Option<MemberId> {
        self.0.borrow().leader
    }

    /// The term, as it stood a moment ago.
    pub fn term(&self) -> u64 {
        self.0.borrow().term
    }

    /// Whether this member votes, as it stood a moment ago.
    pub fn votes(&self) -> bool {
        self.0.borrow().votes
    }

    /// To wait for a change.
    pub fn subscribe(&self) -> watch::Receiver<Standpoint> {
        self.0.subscribe()
    }

    fn set(&self, now: Standpoint) {
        self.0.send_if_modified(|known| std::mem::replace(known, now) != now);
    }
}

impl Member {
    /// Begins to keep the standing, until the consensus core ends. Where the core runs, so that its changes wake
    /// nobody else.
    pub(crate) fn follow_standing(self: &Arc<Self>) {
        let handle = self.consensus.lock().as_ref().map(|consensus| consensus.handle().clone());
        let Some(handle) = handle else { return };
        let (member, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn_on(stop.run_until_cancelled_owned(member.keep_standing()), &handle);
    }

    async fn keep_standing(self: Arc<Self>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let now = {
                let metrics = metrics.borrow_watched();
                let membership = &metrics.membership_config;
                Standpoint {
                    leader: metrics.current_leader,
                    term: metrics.vote.leader_id.term,
                    votes: membership.voter_ids().any(|id| id == self.id)
                        || membership.get_node(&self.id).is_none(),
                    runs: true,
                }
            };
            self.standing.set(now);
            if metrics.changed().await.is_err() {
                self.standing.set(Standpoint { runs: false, ..now });
                return;
            }
        }
    }
}
