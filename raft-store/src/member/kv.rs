//! Range, put, delete, transaction and compaction.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use prost::Message;
use proto::{
    etcdserverpb::{
        AlarmRequest, AlarmType, CompactionRequest, CompactionResponse, DeleteRangeRequest,
        DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
        TxnRequest, TxnResponse, alarm_request::AlarmAction, response_op::Response,
    },
    raftpb::{Answer, answer::Kind, command::Op},
};

use super::{Caller, Member};
use crate::{
    blocking,
    error::Error,
    metrics::STORE,
    mvcc::{check, pieces::Pieces, range, txn},
    storage::View,
};

/// Ranges that may give more rows than this run on a thread of their own, so that they do not hold up others.
const ROWS_INLINE_MAX: i64 = 256;

impl Member {
    /// Answers a range, linearizably unless the request says otherwise.
    pub async fn range_as(&self, caller: &Caller, request: RangeRequest) -> Result<RangeResponse, Error> {
        check::range(&request)?;
        let view = self.prepare_range(caller, &request).await?;
        let started = Instant::now();
        let response = if is_small(&request) {
            range::range(view.as_ref(), &request)
        } else {
            on_thread(view, move |view| range::range(view, &request)).await
        };
        STORE.range_took(started.elapsed(), response.is_ok());
        let mut response = response?;
        self.complete(&mut response.header);
        Ok(response)
    }

    /// Waits until the state may be read for this request, and allows it: by users and roles that are no older than the
    /// state, or who has lost a right could read what was written since.
    async fn prepare_range(&self, caller: &Caller, request: &RangeRequest) -> Result<Arc<View>, Error> {
        if !request.serializable {
            self.read_barrier().await?;
        }
        let view = self.readable()?;
        if !caller.is_trusted() {
            self.shared.auth.load().check_read(&caller.user, &request.key, &request.range_end)?;
        }
        STORE.range();
        Ok(view)
    }

    /// Answers a range as encoded bytes.
    pub(crate) async fn range_wire_as(
        &self,
        caller: &Caller,
        request: RangeRequest,
    ) -> Result<Pieces, Error> {
        if !range::is_plain(&request) || request.key.is_empty() {
            let response = self.range_as(caller, request).await?;
            let mut pieces = Pieces::default();
            pieces.append(response.encoded_len(), |wire| response.encode_raw(wire));
            return Ok(pieces);
        }
        check::range(&request)?;
        let view = self.prepare_range(caller, &request).await?;
        let Some(header) = self.header(view.revision) else { return Err(Error::STOPPED) };
        let started = Instant::now();
        let pieces = if is_small(&request) {
            range::plain_wire(view.as_ref(), &request, &header)
        } else {
            on_thread(view, move |view| range::plain_wire(view, &request, &header)).await
        };
        STORE.range_took(started.elapsed(), pieces.is_ok());
        pieces
    }

    /// Sets a key.
    pub async fn put_as(&self, caller: &Caller, request: PutRequest) -> Result<PutResponse, Error> {
        check::put(&request)?;
        self.check_size(request.encoded_len())?;
        self.check_quota().await?;
        match self.propose_kind(caller, Op::Put(request)).await? {
            Kind::Put(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes keys.
    pub async fn delete_range_as(
        &self,
        caller: &Caller,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Error> {
        check::delete_range(&request)?;
        match self.propose_kind(caller, Op::DeleteRange(request)).await? {
            Kind::DeleteRange(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a transaction; one that only reads does not enter the log.
    pub async fn txn_as(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse, Error> {
        check::txn(&request, self.config.max_txn_ops)?;
        STORE.txn();
        let mut response = if check::is_read_only(&request) {
            if !check::is_serializable(&request) {
                self.read_barrier().await?;
            }
            let view = self.readable()?;
            if !caller.is_trusted() {
                self.shared.auth.load().check_txn(&caller.user, &request)?;
            }
            on_thread(view, move |view| txn::read_only(view, &request)).await?
        } else {
            self.check_size(request.encoded_len())?;
            self.check_quota().await?;
            match self.propose_kind(caller, Op::Txn(request)).await? {
                Kind::Txn(response) => response,
                other => return Err(unexpected(&other)),
            }
        };
        self.complete_txn(&mut response);
        Ok(response)
    }

    /// Gives up history before a revision; waits for the clean-up when `physical` asks for it.
    pub async fn compact_as(
        &self,
        caller: &Caller,
        request: CompactionRequest,
    ) -> Result<CompactionResponse, Error> {
        self.check_admin(caller)?;
        let (revision, physical) = (request.revision, request.physical);
        let now = self.propose_revision(caller, Op::Compact(request)).await?;
        if physical {
            let mut cleaned = self.cleaned.subscribe();
            let cleaned = cleaned.wait_for(|cleaned| *cleaned >= revision);
            // A member that stops cleans no more.
            match self.stop.run_until_cancelled(cleaned).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Error::STOPPED),
            }
        }
        Ok(CompactionResponse { header: self.header(now) })
    }

    /// Proposes and takes the answer apart.
    pub(crate) async fn propose_kind(&self, caller: &Caller, op: Op) -> Result<Kind, Error> {
        let Answer { kind } = self.propose(caller.command(op)).await?;
        kind.ok_or_else(|| Error::internal("an answer without content"))
    }

    /// Proposes what answers with nothing but the revision.
    pub(crate) async fn propose_revision(&self, caller: &Caller, op: Op) -> Result<i64, Error> {
        match self.propose_kind(caller, op).await? {
            Kind::Revision(revision) => Ok(revision),
            other => Err(unexpected(&other)),
        }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes > self.config.max_request_bytes { Err(Error::REQUEST_TOO_LARGE) } else { Ok(()) }
    }

    /// Raises the alarm, for every member, when this one is full.
    async fn check_quota(&self) -> Result<(), Error> {
        if !self.space.is_full.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.shared.alarms.load().any(AlarmType::Nospace) {
            let alarm = AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: self.id,
                alarm: AlarmType::Nospace as i32,
            };
            tracing::warn!(
                quota = self.config.quota_backend_bytes,
                "the state exceeds its quota, or the disk is nearly full: NOSPACE"
            );
            self.propose(Caller::trusted().command(Op::Alarm(alarm))).await?;
        }
        Err(Error::NO_SPACE)
    }

    /// Puts cluster, member and term beside the revision that applying has set.
    pub(crate) fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = self.header(revision);
    }

    fn complete_txn(&self, response: &mut TxnResponse) {
        self.complete(&mut response.header);
        for op in &mut response.responses {
            // etcd leaves cluster and member out of inner headers; an inner transaction's carries nothing.
            if let Some(Response::ResponseTxn(inner)) = &mut op.response {
                inner.header = Some(ResponseHeader::default());
            }
        }
    }
}

fn is_small(request: &RangeRequest) -> bool {
    request.range_end.is_empty() || (1..=ROWS_INLINE_MAX).contains(&request.limit) && request.revision == 0
}

/// Runs a read that may take long where it holds nobody up.
pub(crate) async fn on_thread<T: Send + 'static>(
    view: Arc<View>,
    read: impl FnOnce(&View) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    blocking::run(move || read(&view)).await.map_err(Error::internal)?
}

/// An answer of another kind than its command's: a bug, reported and not papered over.
pub(crate) fn unexpected(kind: &Kind) -> Error {
    Error::internal(format!("an answer of the wrong kind: {kind:?}"))
}
