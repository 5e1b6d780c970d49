//! Executing puts, deletes and transactions on pending changes.

use std::collections::VecDeque;

use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse, request_op::Request, response_op::Response,
};

use super::{
    compare,
    keys::{End, KeyRange},
    pending::Pending,
    range,
    source::Source,
};
use crate::error::Error;

/// Tells whether a lease exists; the lease table answers.
pub type LeaseExists<'l> = dyn Fn(i64) -> bool + 'l;

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

/// Applies one put as its own transaction.
pub fn put(
    pending: &mut Pending,
    request: PutRequest,
    leases: &LeaseExists<'_>,
) -> Result<PutResponse, Error> {
    // A put on its own misses its lease first, one in a transaction its key: etcd's order.
    check_lease(&request, leases)?;
    check_before(pending, &request)?;
    let mut response = execute_put(pending, request)?;
    response.header = header(pending.finish_transaction());
    Ok(response)
}

/// Applies one delete as its own transaction.
pub fn delete_range(
    pending: &mut Pending,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Error> {
    let mut response = execute_delete(pending, request)?;
    response.header = header(pending.finish_transaction());
    Ok(response)
}

/// Applies a transaction: all conditions are decided on the state before it, all checks are made before the
/// first change, so it happens as a whole or not at all.
pub fn txn(
    pending: &mut Pending,
    request: TxnRequest,
    leases: &LeaseExists<'_>,
) -> Result<TxnResponse, Error> {
    let mut path = VecDeque::new();
    decide(pending, &request, &mut path)?;
    check(pending, &request, leases, &mut path.clone())?;
    let mut response = execute(pending, request, &mut path)?;
    response.header = header(pending.finish_transaction());
    Ok(response)
}

/// Answers a transaction that only reads.
pub fn read_only(source: &dyn Source, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let succeeded = compare::all_hold(source, &request.compare)?;
    let ops = if succeeded { &request.success } else { &request.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestRange(inner)) => {
                check_range(source, inner.revision)?;
                Response::ResponseRange(range::range(source, inner)?)
            }
            Some(Request::RequestTxn(inner)) => {
                let header = Some(ResponseHeader::default());
                Response::ResponseTxn(TxnResponse { header, ..read_only(source, inner)? })
            }
            // The caller has checked that nothing is written.
            _ => return Err(Error::KEY_NOT_FOUND),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(TxnResponse { header: header(source.revision()), succeeded, responses })
}

fn chosen(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Writes down which branch each transaction takes, outermost first.
fn decide(source: &dyn Source, request: &TxnRequest, path: &mut VecDeque<bool>) -> Result<(), Error> {
    let succeeded = compare::all_hold(source, &request.compare)?;
    path.push_back(succeeded);
    for op in chosen(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            decide(source, nested, path)?;
        }
    }
    Ok(())
}

fn check(
    source: &dyn Source,
    request: &TxnRequest,
    leases: &LeaseExists<'_>,
    path: &mut VecDeque<bool>,
) -> Result<(), Error> {
    let succeeded = path.pop_front().unwrap_or_default();
    for op in chosen(request, succeeded) {
        match &op.request {
            Some(Request::RequestRange(inner)) => check_range(source, inner.revision)?,
            Some(Request::RequestPut(inner)) => check_put(source, inner, leases)?,
            Some(Request::RequestTxn(inner)) => check(source, inner, leases, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

fn check_put(source: &dyn Source, request: &PutRequest, leases: &LeaseExists<'_>) -> Result<(), Error> {
    check_before(source, request)?;
    check_lease(request, leases)
}

fn check_before(source: &dyn Source, request: &PutRequest) -> Result<(), Error> {
    let needs_before = request.ignore_value || request.ignore_lease;
    if needs_before && source.get(&request.key)?.is_none() { Err(Error::KEY_NOT_FOUND) } else { Ok(()) }
}

fn check_lease(request: &PutRequest, leases: &LeaseExists<'_>) -> Result<(), Error> {
    if request.lease != 0 && !leases(request.lease) { Err(Error::LEASE_NOT_FOUND) } else { Ok(()) }
}

/// Within a transaction a negative revision is one of the past, not the newest as in a range on its own.
fn check_range(source: &dyn Source, revision: i64) -> Result<(), Error> {
    // Before the first compaction etcd calls what is compacted -1.
    let oldest = if source.compact_revision() == 0 { -1 } else { source.compact_revision() };
    if revision < 0 && revision < oldest {
        Err(Error::COMPACTED)
    } else {
        range::check_revision(source, revision)
    }
}

fn execute(
    pending: &mut Pending,
    request: TxnRequest,
    path: &mut VecDeque<bool>,
) -> Result<TxnResponse, Error> {
    let succeeded = path.pop_front().unwrap_or_default();
    let ops = if succeeded { request.success } else { request.failure };
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match op.request {
            Some(Request::RequestRange(inner)) => {
                let mut response = range::range(pending, &inner)?;
                response.header = header(pending.revision());
                Some(Response::ResponseRange(response))
            }
            Some(Request::RequestPut(inner)) => {
                let mut response = execute_put(pending, inner)?;
                response.header = header(pending.revision());
                Some(Response::ResponsePut(response))
            }
            Some(Request::RequestDeleteRange(inner)) => {
                let mut response = execute_delete(pending, &inner)?;
                response.header = header(pending.revision());
                Some(Response::ResponseDeleteRange(response))
            }
            Some(Request::RequestTxn(inner)) => Some(Response::ResponseTxn(execute(pending, inner, path)?)),
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}

fn execute_put(pending: &mut Pending, request: PutRequest) -> Result<PutResponse, Error> {
    let before = pending.get(&request.key)?;
    let (mut value, mut lease) = (request.value, request.lease);
    if let Some(before) = &before {
        if request.ignore_value {
            value = before.value.clone();
        }
        if request.ignore_lease {
            lease = before.lease;
        }
    }
    let prev_kv = if request.prev_kv { before.clone() } else { None };
    pending.put_over(before, request.key, value, lease);
    Ok(PutResponse { header: None, prev_kv })
}

fn execute_delete(pending: &mut Pending, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let before = if range.end == End::Point && pending.get(&range.start)?.is_none() {
        Vec::new()
    } else {
        pending.delete_range(&range)?
    };
    let deleted = before.len() as i64;
    Ok(DeleteRangeResponse {
        header: None,
        deleted,
        prev_kvs: if request.prev_kv { before } else { Vec::new() },
    })
}
