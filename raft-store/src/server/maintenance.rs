//! The Maintenance service.

use std::{pin::Pin, sync::Arc, time::Instant};

use futures::Stream;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, maintenance_server::Maintenance,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::identity::caller;
use crate::{backup, member::Member, metrics::DISK};

/// Pieces of a snapshot that may wait for a slow client.
const SNAPSHOT_PIECES_WAITING: usize = 4;

/// Serves maintenance from a member.
pub struct MaintenanceService(pub Arc<Member>);

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.alarm_as(&caller, request.into_inner()).await?))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.status_as(&caller).await?))
    }

    /// There is nothing to do: RocksDB gives space back by itself, a little at a time.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        self.0.check_admin(&caller)?;
        DISK.defragment.observe(0.0);
        Ok(Response::new(DefragmentResponse { header: self.0.header(self.0.view().revision) }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        self.0.check_admin(&caller)?;
        Ok(Response::new(self.0.hash().await?))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        self.0.check_admin(&caller)?;
        Ok(Response::new(self.0.hash_kv(request.into_inner().revision).await?))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = caller(&self.0, &request)?;
        self.0.check_admin(&caller)?;
        let (pieces, stream) = tokio::sync::mpsc::channel(SNAPSHOT_PIECES_WAITING);
        let member = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let sent = backup::stream(&member, &pieces);
            DISK.snapshot.observe(started.elapsed().as_secs_f64());
            if let Err(error) = sent {
                // The client may have gone; then nobody needs to hear.
                let _ = pieces.blocking_send(Err(Status::from(error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.move_leader_as(&caller, request.into_inner()).await?))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        Ok(Response::new(self.0.downgrade_as(&caller, request.into_inner()).await?))
    }
}
