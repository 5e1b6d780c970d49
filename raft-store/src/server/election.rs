//! The Election service.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, WatchCreateRequest,
        range_request::{SortOrder, SortTarget},
        request_op::Request as OpRequest,
        watch_create_request::FilterType,
    },
    mvccpb::KeyValue,
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
        ProclaimResponse, ResignRequest, ResignResponse, election_server::Election,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{identity::caller, mutex};
use crate::{
    error::Error,
    member::{Caller, Member},
    watch::{EventBatch, WatchStream, WatchUpdate},
};

/// Announcements that may wait for a slow observer.
const OBSERVED_WAITING: usize = 16;

/// Serves elections from a member.
pub struct ElectionService(pub Arc<Member>);

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let CampaignRequest { name, lease, value } = request.into_inner();
        let (place, known) = mutex::join(&self.0, &caller, &name, lease, value.clone()).await?;
        let waiting = mutex::LeaveOnDrop::new(&self.0, &caller, place.key.clone());
        if known.is_some_and(|known| known.value != value) {
            self.proclaim_at(&caller, &place.key, place.revision, place.lease, value).await?;
        }
        let revision = mutex::wait_turn(&self.0, &caller, &name, &place).await?;
        waiting.keep();
        let leader = LeaderKey { name, key: place.key, rev: place.revision, lease: place.lease };
        Ok(Response::new(CampaignResponse { header: self.0.header(revision), leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))?;
        let revision = self.proclaim_at(&caller, &leader.key, leader.rev, leader.lease, value).await?;
        Ok(Response::new(ProclaimResponse { header: self.0.header(revision) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let (revision, leader) = self.current(&caller, &request.into_inner().name).await?;
        let kv = leader.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(LeaderResponse { header: self.0.header(revision), kv: Some(kv) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let caller = caller(&self.0, &request)?;
        let name = request.into_inner().name;
        let (seen, stream) = mpsc::channel(OBSERVED_WAITING);
        let service = Self(self.0.clone());
        tokio::spawn(async move {
            if let Err(error) = service.observe_into(&caller, &name, &seen).await {
                // The observer may have gone; then nobody needs to hear.
                let _ = seen.send(Err(Status::from(error))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let leader = request.into_inner().leader;
        let leader = leader.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))?;
        let delete = DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
        let txn = TxnRequest {
            compare: vec![mutex::created_at(&leader.key, leader.rev)],
            success: vec![mutex::op(OpRequest::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        let answer = self.0.txn_as(&caller, txn).await?;
        Ok(Response::new(ResignResponse { header: answer.header }))
    }
}

impl ElectionService {
    async fn proclaim_at(
        &self,
        caller: &Caller,
        key: &Bytes,
        created: i64,
        lease: i64,
        value: Bytes,
    ) -> Result<i64, Status> {
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let txn = TxnRequest {
            compare: vec![mutex::created_at(key, created)],
            success: vec![mutex::op(OpRequest::RequestPut(put))],
            failure: Vec::new(),
        };
        let answer = self.0.txn_as(caller, txn).await?;
        if !answer.succeeded {
            return Err(not_leader());
        }
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Who stands first, and the revision at which that was so.
    async fn current(&self, caller: &Caller, name: &Bytes) -> Result<(i64, Option<KeyValue>), Error> {
        let start = mutex::prefix(name);
        let first = RangeRequest {
            range_end: mutex::prefix_end(&start),
            key: start,
            limit: 1,
            sort_order: SortOrder::Ascend as i32,
            sort_target: SortTarget::Create as i32,
            ..Default::default()
        };
        let answer = self.0.range_as(caller, first).await?;
        Ok((answer.header.map_or(0, |header| header.revision), answer.kvs.into_iter().next()))
    }

    /// Reports each leader and each of its proclamations, until the observer goes.
    async fn observe_into(
        &self,
        caller: &Caller,
        name: &Bytes,
        seen: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Error> {
        // The next leader may have come into line before the last proclamation of the one before: keys are told apart.
        let mut reported = (Bytes::new(), 0);
        loop {
            let (revision, leader) = self.current(caller, name).await?;
            let (kv, since) = match leader {
                Some(kv) => (kv, revision),
                None => match self.first_put(name, revision, seen).await? {
                    Some(kv) => (kv.clone(), kv.mod_revision),
                    None => continue,
                },
            };
            let watch =
                WatchCreateRequest { key: kv.key.clone(), start_revision: since + 1, ..Default::default() };
            if kv.key != reported.0 || kv.mod_revision > reported.1 {
                reported = (kv.key.clone(), kv.mod_revision);
                self.report(kv, since, seen).await?;
            }
            let stream = self.0.watch(watch).await?;
            'follow: while let Some((revision, events)) = next_events(&stream, seen).await? {
                for event in events.events() {
                    let Some(kv) = event.event().kv.clone().filter(|_| !event.is_delete()) else {
                        break 'follow;
                    };
                    reported.1 = kv.mod_revision;
                    self.report(kv, revision, seen).await?;
                }
            }
        }
    }

    /// Waits until somebody stands where nobody did; nothing when that history is gone.
    async fn first_put(
        &self,
        name: &Bytes,
        revision: i64,
        seen: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<Option<KeyValue>, Error> {
        let key = mutex::prefix(name);
        let watch = WatchCreateRequest {
            range_end: mutex::prefix_end(&key),
            key,
            start_revision: revision + 1,
            filters: vec![FilterType::Nodelete as i32],
            ..Default::default()
        };
        let stream = self.0.watch(watch).await?;
        let events = next_events(&stream, seen).await?;
        Ok(events.and_then(|(_, events)| events.events().first().and_then(|event| event.event().kv.clone())))
    }

    async fn report(
        &self,
        kv: KeyValue,
        revision: i64,
        seen: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Error> {
        let response = LeaderResponse { header: self.0.header(revision), kv: Some(kv) };
        seen.send(Ok(response)).await.map_err(|_| Error::CANCELED)
    }
}

/// The next changes and the revision they were sent at; nothing when the watch was canceled, for its history is gone.
/// Fails when the observer goes.
async fn next_events(
    stream: &WatchStream,
    seen: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<Option<(i64, Arc<EventBatch>)>, Error> {
    loop {
        let update = tokio::select! {
            () = seen.closed() => return Err(Error::CANCELED),
            update = stream.next() => update,
        };
        match update {
            Some(WatchUpdate::Events { revision, events, .. }) => return Ok(Some((revision, events))),
            Some(WatchUpdate::Canceled { .. }) => return Ok(None),
            Some(WatchUpdate::Progress { .. }) => {}
            None => return Err(Error::STOPPED),
        }
    }
}
