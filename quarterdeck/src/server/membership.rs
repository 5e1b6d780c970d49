//! Joining members, through the store's own handle.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::etcdserverpb::{MemberAddRequest, MemberListRequest};
use raft_store::Member;

use super::join_service::Membership;
use crate::failure::{Failure, Result};

/// A joining machine waits 15 s for its answer; this is well within.
const LEARNER_TIMEOUT: Duration = Duration::from_secs(10);
const LEARNER_POLL: Duration = Duration::from_millis(50);

/// The store member of this process.
pub struct StoreMembership {
    member: Arc<Member>,
}

impl StoreMembership {
    pub fn new(member: Arc<Member>) -> Self {
        StoreMembership { member }
    }

    /// The store takes one learner at a time; a server that joined a moment ago is about to become a voter.
    async fn await_no_learner(&self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + LEARNER_TIMEOUT;
        while let Some(learner) = self.list().await?.into_iter().find(|member| member.is_learner) {
            if tokio::time::Instant::now() > deadline {
                let name = if learner.name.is_empty() { learner.peer_ur_ls.join(", ") } else { learner.name };
                return Err(Failure::new(format!(
                    "the server {name} joined before and has not caught up yet"
                ))
                .mend("let it catch up, or take it out with `quarterdeck drain-server`, then join again"));
            }
            tokio::time::sleep(LEARNER_POLL).await;
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<proto::etcdserverpb::Member>> {
        Ok(self.member.member_list(MemberListRequest { linearizable: true }).await?.members)
    }
}

#[async_trait]
impl Membership for StoreMembership {
    async fn add(&self, name: &str, peer_url: &str) -> Result<String> {
        let members = self.list().await?;
        // A member without a name has not started yet: its machine may ask again. One that has voted must not come back
        // with an empty disk, or it could vote twice.
        if let Some(other) = members
            .iter()
            .find(|member| !member.name.is_empty() && (member.name == name || has_peer(member, peer_url)))
        {
            return Err(Failure::new(format!(
                "the server {:?} at {} is already a member",
                other.name,
                other.peer_ur_ls.join(", ")
            ))
            .mend(format!(
                "take it out first with `quarterdeck drain-server {}` on a living server, or choose another --name \
                 and address",
                other.name
            )));
        }
        if !members.iter().any(|member| has_peer(member, peer_url)) {
            self.await_no_learner().await?;
            let request = MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: true };
            self.member.member_add(request).await?;
        }
        let members = self.list().await?;
        let entries = members.iter().map(|member| {
            let url = member.peer_ur_ls.first().map_or("", String::as_str);
            // A member that has not started yet has no name; the one asking gives its own.
            let name = if has_peer(member, peer_url) { name } else { &member.name };
            format!("{name}={url}")
        });
        Ok(entries.collect::<Vec<_>>().join(","))
    }
}

fn has_peer(member: &proto::etcdserverpb::Member, url: &str) -> bool {
    member.peer_ur_ls.iter().any(|known| known == url)
}
