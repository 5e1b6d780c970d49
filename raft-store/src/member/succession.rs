//! A leader whose process has died is replaced at once, not after an election timeout.
//!
//! The kernel closes a dead process's connections: the leader's stream of entries breaks, and dialling it is refused. Who
//! has seen both asks the others, as before every election, whether they would vote for it; they agree when they have
//! seen the same and its log is no shorter than theirs (`RaftService::pre_vote`). A leader that hangs or is cut off gives
//! no such sign and is replaced after the election timeout. Nothing here decides who leads: votes do, as ever.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use openraft::{
    network::{RPCOption, v2::RaftNetworkV2},
    raft::VoteRequest,
};
use tokio::net::TcpStream;

use super::Member;
use crate::raft::{
    network::Connection,
    position::{followed, last_log_id},
    types::{MemberId, TypeConfig, Vote},
};

/// Times a leader is dialled after its stream has ended, since its sockets close one after the other.
const DIALS: u32 = 5;
/// Pause between two of them, and the longest that one may take: who is gone refuses at once.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
const DIAL_LIMIT: Duration = Duration::from_millis(200);
/// Times a member asks the others, who may see that the leader is gone a little later.
const ATTEMPTS: u32 = 8;
/// Head start of each member over the next, so that they do not split the votes.
const HEAD_START: Duration = Duration::from_millis(25);

/// Replaces every leader whose process dies while this member follows it.
pub async fn replace_dead_leaders(member: Arc<Member>) {
    // In a simulation nothing is dialled; an election timeout does the same, later.
    if member.config.network.is_some() {
        return;
    }
    loop {
        member.heard.stream_ended().await;
        let Some((leader, term)) = followed(&member.raft).filter(|(leader, _)| *leader != member.id) else {
            continue;
        };
        if is_gone(&member, leader).await {
            member.heard.set_gone(leader, term);
            tracing::warn!(leader = format!("{leader:x}"), term, "the leader's process is gone");
            stand(&member, leader, term).await;
        }
    }
}

/// Whether nobody listens any more where this member should.
async fn is_gone(member: &Member, id: MemberId) -> bool {
    let Some(node) = member.node(id) else { return false };
    let Some(target) = node.peer_urls.first().and_then(|url| url.parse::<http::Uri>().ok()) else {
        return false;
    };
    let (Some(host), Some(port)) = (target.host(), target.port_u16()) else { return false };
    let host = host.trim_matches(['[', ']']);
    for _ in 0..DIALS {
        match tokio::time::timeout(DIAL_LIMIT, TcpStream::connect((host, port))).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return true,
            Ok(Ok(_)) => tokio::time::sleep(DIAL_PAUSE).await,
            _ => return false,
        }
    }
    false
}

/// Asks the others for their votes until somebody else leads.
async fn stand(member: &Arc<Member>, leader: MemberId, term: u64) {
    let Some(rank) = rank(member, leader, term) else { return };
    tokio::time::sleep(HEAD_START * rank).await;
    for _ in 0..ATTEMPTS {
        if followed(&member.raft) != Some((leader, term)) {
            return;
        }
        if would_win(member, term).await {
            if let Err(error) = member.raft.trigger().elect(false).await {
                tracing::warn!(%error, "cannot stand for election");
            }
            return;
        }
        tokio::time::sleep(HEAD_START).await;
    }
}

/// This member's place among the voters that are left: another one is first in every term. None without a vote.
fn rank(member: &Member, leader: MemberId, term: u64) -> Option<u32> {
    let mut voters: Vec<MemberId> = member
        .nodes()
        .into_iter()
        .filter(|(id, _, learns)| *id != leader && !learns)
        .map(|(id, ..)| id)
        .collect();
    voters.sort_unstable();
    let first = usize::try_from(term).unwrap_or(0) % voters.len().max(1);
    voters.rotate_left(first);
    let place = voters.iter().position(|id| *id == member.id)?;
    u32::try_from(place).ok()
}

/// Whether a majority of all voters, the dead leader among them, would vote for this member.
async fn would_win(member: &Member, term: u64) -> bool {
    let request = VoteRequest::<TypeConfig> {
        vote: Vote::new(term + 1, member.id),
        last_log_id: last_log_id(&member.raft),
        leadership_transfer: false,
    };
    let nodes = member.nodes();
    let voters: Vec<_> = nodes.into_iter().filter(|(_, _, learns)| !learns).collect();
    let answers = voters.iter().filter(|(id, ..)| *id != member.id).map(|(id, node, _)| {
        let mut connection = Connection::new(member.peers.clone(), *id, node.peer_urls.clone());
        let request = request.clone();
        async move { connection.pre_vote(request, RPCOption::new(DIAL_LIMIT)).await }
    });
    let answers = futures::future::join_all(answers).await;
    let granted = answers.into_iter().flatten().filter(|answer| answer.vote_granted).count();
    (granted + 1) * 2 > voters.len()
}
