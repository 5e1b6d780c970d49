//! The Cluster service.

use std::sync::Arc;

use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, cluster_server::Cluster,
};
use tonic::{Request, Response, Status};

use super::identity::caller;
use crate::member::Member;

/// Serves membership from a member.
pub struct ClusterService(pub Arc<Member>);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.member_add_as(&caller, request.into_inner()).await?))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.member_remove_as(&caller, request.into_inner()).await?))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.member_update_as(&caller, request.into_inner()).await?))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.member_list_as(&caller, request.into_inner()).await?))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.member_promote_as(&caller, request.into_inner()).await?))
    }
}
