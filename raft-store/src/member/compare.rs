//! Comparing states between members: hashes of what is readable at one revision must be equal.

use std::{sync::Arc, time::Duration};

use proto::{
    etcdserverpb::{AlarmRequest, AlarmType, HashKvResponse, alarm_request::AlarmAction},
    raftpb::{HashAtRequest, HashAtResponse, command::Op},
};

use super::{Caller, Member, StartError};
use crate::{error::Error, raft::types::MemberId};

/// How long a start waits for one member's hash; who does not answer is not compared with.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks each of the others for its hash at the revision of `own`; those that are down, behind, or compacted to another
/// revision are left out.
async fn others_at(member: &Member, own: &HashKvResponse) -> Vec<(MemberId, HashAtResponse)> {
    let mut found = Vec::new();
    for (id, node, _) in member.nodes().into_iter().filter(|(id, ..)| *id != member.id) {
        let request = HashAtRequest { revision: own.hash_revision };
        let Ok(mut peer) = member.peers.peer(&node.peer_urls) else { continue };
        if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_TIMEOUT, peer.hash_at(request)).await {
            let answer = answer.into_inner();
            if answer.compact_revision == own.compact_revision {
                found.push((id, answer));
            }
        }
    }
    found
}

/// A member that finds at its start that another has other data does not serve.
pub async fn before_serving(member: &Member) -> Result<(), StartError> {
    let own = member.hash_kv(0).await?;
    for (id, answer) in others_at(member, &own).await {
        if answer.hash != own.hash {
            return Err(StartError::Differs { member: id, revision: own.hash_revision });
        }
    }
    Ok(())
}

/// As the leader, compares the state with every member's at one revision; raises CORRUPT for those that differ.
pub async fn regularly(member: Arc<Member>) {
    let mut ticks = tokio::time::interval(member.config.corrupt_check_interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if member.is_leader()
            && let Err(error) = compare_once(&member).await
        {
            tracing::warn!(%error, "could not compare states");
        }
    }
}

async fn compare_once(member: &Arc<Member>) -> Result<(), Error> {
    let own = member.hash_kv(0).await?;
    for (id, answer) in others_at(member, &own).await {
        if answer.hash != own.hash {
            tracing::error!(
                member = format!("{id:x}"),
                revision = own.hash_revision,
                "states differ: CORRUPT"
            );
            let alarm = AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: id,
                alarm: AlarmType::Corrupt as i32,
            };
            member.propose(Caller::trusted().command(Op::Alarm(alarm))).await?;
        }
    }
    Ok(())
}
