//! Membership changes: decided and carried out by whoever leads.

use std::time::Duration;

use openraft::{
    ChangeMembers, Instant as _,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use proto::{
    etcdserverpb::{
        Member as MemberMessage, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse,
    },
    raftpb::{AdminRequest, AdminResponse, HelloRequest, admin_request::Op},
};

use tokio::time::Instant;

use super::{
    Caller, Member,
    membership::{self, MemberView, Members},
};
use crate::{
    error::Error,
    metrics::SERVER,
    raft::{
        peers::was_never_sent,
        types::{LogId, MemberId, MemberNode, TypeConfig},
    },
};

/// Log entries a learner may be behind and still become a voter.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// Pause before a change is tried again because another one is under way.
const CHANGE_RETRY: Duration = Duration::from_millis(50);

pub(super) type Change = ChangeMembers<MemberId, MemberNode>;

impl Member {
    /// The members as clients see them.
    pub(crate) fn member_messages(&self) -> Vec<MemberMessage> {
        let nodes = self.nodes().into_iter();
        nodes
            .map(|(id, node, is_learner)| MemberMessage {
                id,
                name: node.name,
                peer_ur_ls: node.peer_urls,
                client_ur_ls: node.client_urls,
                // One that only waits to become a voter is what the client asked for.
                is_learner: is_learner && !node.becomes_voter,
            })
            .collect()
    }

    /// The leader's view of everybody.
    pub(super) fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let view = |(id, node, is_learner): (MemberId, MemberNode, bool)| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).copied().flatten();
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&id)).copied().flatten();
            let recent = heard.is_some_and(|heard| heard.elapsed() < 2 * self.config.election_timeout);
            let caught_up = matched.is_some_and(|at| at.index() + CAUGHT_UP_ENTRIES >= last);
            let own = id == self.id;
            (id, MemberView { node, is_learner, is_reachable: own || recent, is_caught_up: own || caught_up })
        };
        let voters: Vec<MemberId> = metrics.membership_config.voter_ids().collect();
        let nodes = metrics.membership_config.nodes();
        nodes.map(|(id, node)| view((*id, node.clone(), !voters.contains(id)))).collect()
    }

    /// The other members, and whether this one has heard of each lately, as far as it can tell: followers hear of their
    /// leader alone.
    pub(crate) fn others_heard_of(&self) -> Vec<(MemberId, Option<bool>)> {
        let (leads, leader) = (self.is_leader(), self.leader());
        let others = self.members().into_iter().filter(|(id, _)| *id != self.id);
        others
            .map(|(id, member)| {
                let heard_of =
                    if leads { Some(member.is_reachable) } else { (leader == Some(id)).then_some(true) };
                (id, heard_of)
            })
            .collect()
    }

    /// Changes the membership; waits for its turn when another change is under way: two that alternate would each find that
    /// the membership is not what they left. `NOT_LEADER` says that nothing was changed.
    async fn change(&self, change: Change, retain: bool) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        let turn = tokio::time::timeout_at(deadline, self.changing.lock()).await;
        let _turn = turn.map_err(|_| Error::TIMEOUT)?;
        loop {
            let before = self.changed_at();
            let changing = self.raft.change_membership(change.clone(), retain);
            let result = tokio::time::timeout_at(deadline, changing).await.map_err(|_| Error::TIMEOUT)?;
            match result {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) if Instant::now() < deadline => tokio::time::sleep(CHANGE_RETRY).await,
                Err(error) => {
                    let error = change_error(error);
                    // Of two steps the first may have been taken.
                    let is_begun = error == Error::NOT_LEADER && self.changed_at() != before;
                    return Err(if is_begun { Error::LEADER_CHANGED } else { error });
                }
            }
        }
    }

    /// Where the membership stands in the log.
    fn changed_at(&self) -> Option<LogId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        *metrics.membership_config.log_id()
    }

    /// Carries out an administrative request here if this member leads, else at the leader. Where nobody leads it waits for
    /// the next leader, as long as a request may take.
    async fn administer(&self, op: Op) -> Result<AdminResponse, Error> {
        let deadline = Instant::now() + self.config.request_timeout();
        loop {
            let leader = self.wait_leader().await?;
            let attempt = if leader == self.id {
                self.administer_here(op.clone()).await
            } else {
                self.administer_at(leader, op.clone()).await
            };
            match attempt {
                Err(error) if error == Error::NOT_LEADER => {
                    self.pause_between_leaders(Error::TIMEOUT, deadline).await?
                }
                done => return done,
            }
        }
    }

    /// `NOT_LEADER` also says that the leader was not there to be asked.
    async fn administer_at(&self, leader: MemberId, op: Op) -> Result<AdminResponse, Error> {
        let node = self.node(leader).ok_or(Error::NO_LEADER)?;
        let mut client = self.peers.peer(&node.peer_urls)?;
        let mut request = tonic::Request::new(AdminRequest { op: Some(op) });
        request.set_timeout(self.config.request_timeout());
        let answer = client.admin(request).await;
        let answer = answer
            .map_err(|status| if was_never_sent(&status) { Error::NOT_LEADER } else { Error::from(status) });
        let response = answer?.into_inner();
        // What the client does next, it does here: wait until this member knows too.
        self.read_barrier().await?;
        Ok(response)
    }

    /// As the leader.
    pub(crate) async fn administer_here(&self, op: Op) -> Result<AdminResponse, Error> {
        let mut added = None;
        match op {
            Op::Add(request) => added = Some(self.add_here(request).await?),
            Op::Remove(request) => self.remove_here(request.id).await?,
            Op::Update(request) => {
                let members = self.members();
                membership::check_urls(&request.peer_ur_ls)?;
                let mut node = members.get(&request.id).ok_or(Error::MEMBER_NOT_FOUND)?.node.clone();
                membership::check_urls_free(&members, Some(request.id), &request.peer_ur_ls)?;
                node.peer_urls = request.peer_ur_ls;
                self.set_node(request.id, node).await?;
            }
            Op::Promote(request) => {
                membership::check_promote(&self.members(), request.id)
                    .inspect_err(|error| SERVER.not_promoted.with_label_values(&[error.text()]).inc())?;
                self.change(Change::AddVoterIds([request.id].into()), false).await?;
                SERVER.promoted.inc();
            }
            Op::MoveLeader(request) => self.move_leader_here(request.target_id).await?,
            Op::Publish(member) => {
                let members = self.members();
                let known = members.get(&member.id).ok_or(Error::MEMBER_NOT_FOUND)?;
                let node =
                    MemberNode { name: member.name, client_urls: member.client_ur_ls, ..known.node.clone() };
                if node != known.node {
                    self.set_node(member.id, node).await?;
                }
            }
        }
        let members = self.member_messages();
        let added = added.and_then(|id| members.iter().find(|member| member.id == id).cloned());
        Ok(AdminResponse { added, members })
    }

    async fn set_node(&self, id: MemberId, node: MemberNode) -> Result<(), Error> {
        self.change(Change::SetNodes([(id, node)].into()), true).await
    }

    async fn add_here(&self, request: MemberAddRequest) -> Result<MemberId, Error> {
        let salt = self.view().applied_index.to_string();
        let id = membership::member_id(&request.peer_ur_ls, &self.config.initial_cluster_token, &salt);
        let learners_max = request.is_learner.then_some(self.config.max_learners);
        membership::check_add(&self.members(), id, &request.peer_ur_ls, learners_max)?;
        let node = MemberNode {
            peer_urls: request.peer_ur_ls,
            becomes_voter: !request.is_learner,
            ..MemberNode::default()
        };
        self.change(Change::AddNodes([(id, node)].into()), true).await?;
        Ok(id)
    }

    async fn remove_here(&self, id: MemberId) -> Result<(), Error> {
        let members = self.members();
        membership::check_remove(&members, id, self.config.strict_reconfig_check)?;
        let gone = self.node(id);
        if members.get(&id).is_some_and(|member| member.is_learner) {
            self.change(Change::RemoveNodes([id].into()), false).await?;
            self.tell_removed(id, gone);
            return Ok(());
        }
        if id == self.id
            && let Some((next, _)) = members.iter().find(|(other, member)| {
                **other != id && !member.is_learner && member.is_reachable && member.is_caught_up
            })
        {
            // Leaving as the leader would stop the cluster for an election; the next leader removes us.
            self.move_leader_here(*next).await?;
            let node = self.node(*next).ok_or(Error::NO_LEADER)?;
            let op = Some(Op::Remove(MemberRemoveRequest { id }));
            self.peers.peer(&node.peer_urls)?.admin(AdminRequest { op }).await?;
            return Ok(());
        }
        self.change(Change::RemoveVoters([id].into()), false).await?;
        self.tell_removed(id, gone);
        Ok(())
    }

    /// Greets a removed member in its own name, which makes it ask the others whether it still belongs to them. One
    /// that is away asks by itself when it comes back.
    pub(super) fn tell_removed(&self, id: MemberId, node: Option<MemberNode>) {
        let Some(node) = node.filter(|_| id != self.id) else { return };
        let Ok(mut client) = self.peers.peer(&node.peer_urls) else { return };
        let mut request = tonic::Request::new(HelloRequest { cluster_id: self.cluster_id, from: id });
        request.set_timeout(self.config.election_timeout);
        tokio::spawn(async move {
            if let Err(status) = client.hello(request).await {
                tracing::debug!(%status, member = format!("{id:x}"), "a removed member was not there to be told");
            }
        });
    }

    /// Turns learners that wait to become voters into voters as they catch up.
    pub(crate) async fn promote_waiting(&self) -> Result<(), Error> {
        let members = self.members();
        let ready = members.iter().filter(|(id, member)| {
            member.is_learner
                && member.node.becomes_voter
                && membership::check_promote(&members, **id).is_ok()
        });
        for (id, member) in ready {
            let node = MemberNode { becomes_voter: false, ..member.node.clone() };
            let both = Change::Batch(vec![
                Change::SetNodes([(*id, node)].into()),
                Change::AddVoterIds([*id].into()),
            ]);
            self.change(both, true).await?;
            tracing::info!(member = format!("{id:x}"), "a member has caught up and votes now");
        }
        Ok(())
    }

    /// Tells the cluster this member's name and client URLs.
    pub(crate) async fn publish_self(&self) -> Result<(), Error> {
        let client_ur_ls = self.config.advertise_client_urls.clone();
        let known = self.node(self.id).ok_or(Error::MEMBER_NOT_FOUND)?;
        if known.name == self.config.name && known.client_urls == client_ur_ls {
            return Ok(());
        }
        let name = self.config.name.clone();
        let own = MemberMessage { id: self.id, name, client_ur_ls, ..Default::default() };
        self.administer(Op::Publish(own)).await.map(|_| ())
    }

    /// Asks the leader to make this learner a voter.
    pub(crate) async fn ask_for_promotion(&self) -> Result<(), Error> {
        self.administer(Op::Promote(MemberPromoteRequest { id: self.id })).await.map(|_| ())
    }

    /// Whether this member is a learner.
    pub(crate) fn is_learner(&self) -> bool {
        self.nodes().iter().any(|(id, _, is_learner)| *id == self.id && *is_learner)
    }

    /// The members.
    pub async fn member_list_as(
        &self,
        caller: &Caller,
        request: MemberListRequest,
    ) -> Result<MemberListResponse, Error> {
        self.check_user(caller)?;
        if request.linearizable {
            self.read_barrier().await?;
        }
        Ok(MemberListResponse { header: self.header(self.view().revision), members: self.member_messages() })
    }

    /// Adds a voter or a learner.
    pub async fn member_add_as(
        &self,
        caller: &Caller,
        request: MemberAddRequest,
    ) -> Result<MemberAddResponse, Error> {
        self.check_admin(caller)?;
        let answer = self.administer(Op::Add(request)).await?;
        Ok(MemberAddResponse {
            header: self.header(self.view().revision),
            member: answer.added,
            members: answer.members,
        })
    }

    /// Removes a member.
    pub async fn member_remove_as(
        &self,
        caller: &Caller,
        request: MemberRemoveRequest,
    ) -> Result<MemberRemoveResponse, Error> {
        self.check_admin(caller)?;
        let members = self.administer(Op::Remove(request)).await?.members;
        Ok(MemberRemoveResponse { header: self.header(self.view().revision), members })
    }

    /// Changes a member's peer URLs.
    pub async fn member_update_as(
        &self,
        caller: &Caller,
        request: MemberUpdateRequest,
    ) -> Result<MemberUpdateResponse, Error> {
        self.check_admin(caller)?;
        let members = self.administer(Op::Update(request)).await?.members;
        Ok(MemberUpdateResponse { header: self.header(self.view().revision), members })
    }

    /// Makes a learner a voter.
    pub async fn member_promote_as(
        &self,
        caller: &Caller,
        request: MemberPromoteRequest,
    ) -> Result<MemberPromoteResponse, Error> {
        self.check_admin(caller)?;
        let members = self.administer(Op::Promote(request)).await?.members;
        Ok(MemberPromoteResponse { header: self.header(self.view().revision), members })
    }
}

pub(super) fn change_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NOT_LEADER,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(
            _,
        ))) => Error::TIMEOUT,
        RaftError::Fatal(_) => Error::STOPPED,
        RaftError::APIError(error) => Error::internal(error),
    }
}
