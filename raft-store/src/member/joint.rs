//! Changes of the membership that were left half done.
//!
//! Who votes changes in two log entries: first both the old voters and the new must agree to everything, then the new alone.
//! A leader that dies between the two, or whose client goes away, leaves the first: safe, but every write then needs both
//! majorities, and a member that was removed is still listed. Whoever leads writes the second. It can be written again and
//! again: the membership it follows upon is named, and once it is there nothing is left to finish.

use std::collections::BTreeSet;

use openraft::{Precondition, async_runtime::WatchReceiver};

use super::{
    Member,
    cluster::{Change, change_error},
};
use crate::{
    error::Error,
    raft::types::{LogId, MemberId},
};

/// A membership between two.
struct Joint {
    /// Where it stands in the log.
    at: Option<LogId>,
    /// Those who vote once it is over.
    stay: BTreeSet<MemberId>,
    /// Those who do not vote any more then.
    leave: BTreeSet<MemberId>,
}

impl Member {
    fn joint(&self) -> Option<Joint> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let [.., _, stay] = membership.get_joint_config().as_slice() else { return None };
        let leave = membership.voter_ids().filter(|id| !stay.contains(id)).collect();
        Some(Joint { at: *membership.log_id(), stay: stay.clone(), leave })
    }

    /// As the leader, finishes a change that nobody is at any more.
    pub(crate) async fn finish_change(&self) -> Result<(), Error> {
        if self.joint().is_none() {
            return Ok(());
        }
        // One that is under way here goes on by itself.
        let Ok(_turn) = self.changing.try_lock() else { return Ok(()) };
        let Some(Joint { at, stay, leave }) = self.joint() else { return Ok(()) };
        if leave.contains(&self.id) {
            // Leaving as the leader would stop the cluster for an election; the next leader finishes.
            let members = self.members();
            let able = |id: &&MemberId| members.get(id).is_some_and(|it| it.is_reachable && it.is_caught_up);
            if let Some(next) = stay.iter().find(able) {
                return self.move_leader_here(*next).await;
            }
        }
        let gone: Vec<_> = leave.into_iter().map(|id| (id, self.node(id))).collect();
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: at };
        let finishing =
            self.raft.change_membership_if(Change::AddVoterIds(BTreeSet::new()), false, [unchanged]);
        let finished = tokio::time::timeout(self.config.request_timeout(), finishing).await;
        finished.map_err(|_| Error::TIMEOUT)?.map_err(change_error)?;
        tracing::info!("finished a change of the membership that was left half done");
        for (id, node) in gone {
            self.tell_removed(id, node);
        }
        Ok(())
    }
}
