//! The Lease service.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt};
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, lease_server::Lease,
};
use tonic::{Request, Response, Status, Streaming};

use super::identity::{Credentials, caller};
use crate::member::Member;

/// Serves leases from a member.
pub struct LeaseService(pub Arc<Member>);

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.lease_grant_as(&caller, request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.lease_revoke_as(&caller, request.into_inner()).await?))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        caller(&self.0, &request)?;
        let credentials = Arc::new(Credentials::of(&request));
        let member = self.0.clone();
        let stop = member.stopping().clone();
        let answers = request.into_inner().then(move |request| {
            let (member, credentials) = (member.clone(), credentials.clone());
            async move {
                let request = request?;
                // Streams last; who opened this one may have lost the right since.
                let caller = credentials.caller(&member)?;
                Ok(member.lease_keep_alive_as(&caller, request).await?)
            }
        });
        Ok(Response::new(Box::pin(answers.take_until(stop.cancelled_owned()))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.lease_time_to_live_as(&caller, request.into_inner()).await?))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.lease_leases_as(&caller).await?))
    }
}
