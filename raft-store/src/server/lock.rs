//! The Lock service.

use std::sync::Arc;

use bytes::Bytes;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock};
use tonic::{Request, Response, Status};

use super::{identity::caller, mutex};
use crate::member::Member;

/// Serves locks from a member.
pub struct LockService(pub Arc<Member>);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let LockRequest { name, lease } = request.into_inner();
        let (place, _) = mutex::join(&self.0, &caller, &name, lease, Bytes::new()).await?;
        let waiting = mutex::LeaveOnDrop::new(&self.0, &caller, place.key.clone());
        mutex::wait_turn(&self.0, &caller, &name, &place).await?;
        // The lease may have run out meanwhile, and the place with it: then the turn is not this caller's.
        let revision = mutex::still_there(&self.0, &caller, &place).await?;
        waiting.keep();
        Ok(Response::new(LockResponse { header: self.0.header(revision), key: place.key }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let revision = mutex::leave(&self.0, &caller, request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse { header: self.0.header(revision) }))
    }
}
