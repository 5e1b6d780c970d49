//! Moving the leadership: as asked, and by a leader that stops.

use openraft::async_runtime::WatchReceiver;
use proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};

use super::{Caller, Member};
use crate::{error::Error, raft::types::MemberId};

impl Member {
    /// As the leader; returns once it is known here that the other leads.
    pub(super) async fn move_leader_here(&self, target: MemberId) -> Result<(), Error> {
        let members = self.members();
        match members.get(&target) {
            Some(member) if !member.is_learner => {}
            _ => return Err(Error::BAD_LEADER_TRANSFEREE),
        }
        if target == self.id {
            return Ok(());
        }
        self.raft.trigger().transfer_leader(target).await.map_err(Error::internal)?;
        let mut metrics = self.raft.metrics();
        let moved = async {
            while metrics.borrow_watched().current_leader != Some(target) {
                metrics.changed().await.map_err(|_| Error::STOPPED)?;
            }
            Ok(())
        };
        let limit = self.config.election_timeout * 3;
        tokio::time::timeout(limit, moved).await.unwrap_or(Err(Error::TIMEOUT))
    }

    /// Hands the leadership to the member that is furthest, if there is one that could take it.
    pub(crate) async fn hand_over(&self) {
        if !self.is_leader() {
            return;
        }
        let members = self.members();
        let able = members.iter().find(|(id, member)| {
            **id != self.id && !member.is_learner && member.is_reachable && member.is_caught_up
        });
        let Some((next, _)) = able else { return };
        if let Err(error) = self.move_leader_here(*next).await {
            tracing::warn!(%error, "could not hand the leadership over");
        }
    }

    /// Moves the leadership; only the leader itself may be asked, as in etcd.
    pub async fn move_leader_as(
        &self,
        caller: &Caller,
        request: MoveLeaderRequest,
    ) -> Result<MoveLeaderResponse, Error> {
        self.check_admin(caller)?;
        if !self.is_leader() {
            return Err(Error::NOT_LEADER);
        }
        self.move_leader_here(request.target_id).await?;
        Ok(MoveLeaderResponse { header: self.header(self.view().revision) })
    }
}
