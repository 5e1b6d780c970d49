//! What a member does for its peers on behalf of their clients.

use std::sync::Arc;

use proto::raftpb::{
    AdminRequest, AdminResponse, HashAtRequest, HashAtResponse, HelloRequest, HelloResponse,
    LeaseRemainingRequest, LeaseRemainingResponse, LeaseRenewRequest, LeaseRenewResponse, ProposeRequest,
    ProposeResponse, ReadIndexRequest, ReadIndexResponse, peer_server::Peer,
};
use tonic::{Request, Response, Status};

use super::{Member, maintenance::SERVER_VERSION};
use crate::error::Error;

/// The peer service of one member.
pub struct PeerService {
    member: Arc<Member>,
}

impl PeerService {
    /// Serves from `member`.
    pub fn new(member: Arc<Member>) -> Self {
        Self { member }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        if request.into_inner().from == self.member.id {
            // Nobody greets in our name but a leader that has just removed us.
            self.member.doubted.notify_one();
        }
        Ok(Response::new(HelloResponse {
            cluster_id: self.member.cluster_id,
            member_id: self.member.id,
            version: SERVER_VERSION.into(),
            members: self.member.member_messages(),
        }))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        self.member.haste.note();
        let (results, index) = self.member.propose_for_peer(request.into_inner().commands).await?;
        Ok(Response::new(ProposeResponse { index, results }))
    }

    async fn read_index(
        &self,
        _request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        if !self.member.is_leader() {
            return Err(Error::NOT_LEADER.into());
        }
        self.member.haste.note();
        let index = self.member.leader_read_index().await?;
        Ok(Response::new(ReadIndexResponse { index }))
    }

    async fn lease_renew(
        &self,
        request: Request<LeaseRenewRequest>,
    ) -> Result<Response<LeaseRenewResponse>, Status> {
        let ttl = self.member.lease_renew_here(request.into_inner().id).await?;
        Ok(Response::new(LeaseRenewResponse { ttl }))
    }

    async fn lease_remaining(
        &self,
        request: Request<LeaseRemainingRequest>,
    ) -> Result<Response<LeaseRemainingResponse>, Status> {
        let response = match self.member.lease_remaining_here(request.into_inner().id).await? {
            Some(left) => LeaseRemainingResponse { ttl: left.ttl_secs, granted_ttl: left.granted_secs },
            None => LeaseRemainingResponse { ttl: -1, granted_ttl: 0 },
        };
        Ok(Response::new(response))
    }

    async fn admin(&self, request: Request<AdminRequest>) -> Result<Response<AdminResponse>, Status> {
        if !self.member.is_leader() {
            return Err(Error::NOT_LEADER.into());
        }
        let op = request.into_inner().op.ok_or_else(|| Status::invalid_argument("no request"))?;
        Ok(Response::new(self.member.administer_here(op).await?))
    }

    async fn hash_at(&self, request: Request<HashAtRequest>) -> Result<Response<HashAtResponse>, Status> {
        let answer = self.member.hash_kv(request.into_inner().revision).await?;
        let (hash, revision) = (answer.hash, answer.hash_revision);
        Ok(Response::new(HashAtResponse { hash, revision, compact_revision: answer.compact_revision }))
    }
}
