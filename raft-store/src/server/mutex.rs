//! What Lock and Election share: standing in line under a prefix with a key that lives as long as a lease.

use bytes::Bytes;
use proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        WatchCreateRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
        watch_create_request::FilterType,
    },
    mvccpb::KeyValue,
};
use tonic::Code;

use crate::{
    error::Error,
    member::{Caller, Member},
    watch::WatchUpdate,
};

/// Time of the lease made for a caller that brought none, as in etcd's sessions.
const SESSION_TTL_SECS: i64 = 60;

/// A place in line.
#[derive(Clone, Debug)]
pub struct Place {
    /// The key that stands for it.
    pub key: Bytes,
    /// Its create revision: the place itself.
    pub revision: i64,
    /// The lease it depends on.
    pub lease: i64,
}

/// `name/`, under which everybody stands.
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The first key after every key with this prefix.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// A condition that the key was created at this revision; 0 for "does not exist".
pub fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

/// An operation of a transaction.
pub fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Joins the line, or finds the place this lease has already; `value` is what others read there.
pub async fn join(
    member: &Member,
    caller: &Caller,
    name: &Bytes,
    lease: i64,
    value: Bytes,
) -> Result<(Place, Option<KeyValue>), Error> {
    let lease = match lease {
        0 => member.lease_grant_as(caller, LeaseGrantRequest { ttl: SESSION_TTL_SECS, id: 0 }).await?.id,
        given => given,
    };
    let key: Bytes = [prefix(name).as_ref(), format!("{lease:x}").as_bytes()].concat().into();
    let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
    let get = RangeRequest { key: key.clone(), ..Default::default() };
    let txn = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: vec![op(Request::RequestPut(put))],
        failure: vec![op(Request::RequestRange(get))],
    };
    let answer = member.txn_as(caller, txn).await?;
    let mut revision = answer.header.map_or(0, |header| header.revision);
    let mut known = None;
    if let Some(Response::ResponseRange(range)) = answer.responses.into_iter().find_map(|op| op.response) {
        known = range.kvs.into_iter().next();
        revision = known.as_ref().map_or(revision, |kv| kv.create_revision);
    }
    Ok((Place { key, revision, lease }, known))
}

/// Waits until nobody stands before `place`. Gives the revision at which that was so.
pub async fn wait_turn(member: &Member, caller: &Caller, name: &Bytes, place: &Place) -> Result<i64, Error> {
    let start = prefix(name);
    loop {
        let before = RangeRequest {
            key: start.clone(),
            range_end: prefix_end(&start),
            limit: 1,
            sort_order: SortOrder::Descend as i32,
            sort_target: SortTarget::Create as i32,
            max_create_revision: place.revision - 1,
            ..Default::default()
        };
        let answer = member.range_as(caller, before).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        let Some(ahead) = answer.kvs.into_iter().next() else { return Ok(revision) };
        wait_deleted(member, ahead.key, revision + 1).await?;
    }
}

/// Makes sure that `place` has not gone with its lease. Gives the revision at which it was there.
pub async fn still_there(member: &Member, caller: &Caller, place: &Place) -> Result<i64, Error> {
    let own = RangeRequest { key: place.key.clone(), ..Default::default() };
    let answer = member.range_as(caller, own).await?;
    if !answer.kvs.iter().any(|kv| kv.create_revision == place.revision) {
        return Err(Error::new(Code::Unknown, "mutex: session is expired"));
    }
    Ok(answer.header.map_or(0, |header| header.revision))
}

async fn wait_deleted(member: &Member, key: Bytes, start_revision: i64) -> Result<(), Error> {
    let filters = vec![FilterType::Noput as i32];
    let watch = WatchCreateRequest { key, start_revision, filters, ..Default::default() };
    let stream = member.watch(watch).await?;
    loop {
        match stream.next().await {
            // Compacted: ask again from the present.
            Some(WatchUpdate::Events { .. } | WatchUpdate::Canceled { .. }) => return Ok(()),
            Some(WatchUpdate::Progress { .. }) => {}
            None => return Err(Error::STOPPED),
        }
    }
}

/// Gives a place up.
pub async fn leave(member: &Member, caller: &Caller, key: Bytes) -> Result<i64, Error> {
    let delete = DeleteRangeRequest { key, ..Default::default() };
    let answer = member.delete_range_as(caller, delete).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Gives a place up when the call that waits for it is dropped before its turn came.
pub struct LeaveOnDrop<'m> {
    member: &'m std::sync::Arc<Member>,
    caller: Caller,
    key: Option<Bytes>,
}

impl<'m> LeaveOnDrop<'m> {
    /// Watches over a place.
    pub fn new(member: &'m std::sync::Arc<Member>, caller: &Caller, key: Bytes) -> Self {
        Self { member, caller: caller.clone(), key: Some(key) }
    }

    /// The turn came: the place is kept.
    pub fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let (member, caller) = (self.member.clone(), self.caller.clone());
            tokio::spawn(async move {
                if let Err(error) = leave(&member, &caller, key).await {
                    tracing::debug!(%error, "an abandoned place in line goes with its lease");
                }
            });
        }
    }
}
