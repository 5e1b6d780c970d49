//! Checks a request needs before it may enter the log: shape, sizes, and keys given twice.

use std::collections::HashSet;

use bytes::Bytes;
use proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};

use super::keys::KeyRange;
use crate::error::Error;

/// Deepest nesting of transactions; deeper ones would let a client exhaust a member's stack.
const TXN_DEPTH_MAX: usize = 64;

/// A range needs a key and known sort options.
pub fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::INVALID_SORT_OPTION);
    }
    Ok(())
}

/// A put needs a key, and must not give what it asks to ignore.
pub fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LEASE_PROVIDED);
    }
    Ok(())
}

/// A delete needs a key.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EMPTY_KEY) } else { Ok(()) }
}

/// A transaction may hold `ops_max` operations on every path and must not write a key twice.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    shape(request, ops_max, 0)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

fn shape(request: &TxnRequest, ops_max: usize, depth: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max || depth > TXN_DEPTH_MAX {
        return Err(Error::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => shape(inner, ops_max - ops, depth + 1)?,
            None => return Err(Error::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What one branch writes.
#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn add_put(&mut self, key: &Bytes, allowed: Option<&HashSet<Bytes>>) -> Result<(), Error> {
        let known = self.puts.contains(key) && !allowed.is_some_and(|allowed| allowed.contains(key));
        if known || self.deletes.iter().any(|range| range.contains(key)) {
            return Err(Error::DUPLICATE_KEY);
        }
        self.puts.insert(key.clone());
        Ok(())
    }
}

/// Collects the writes of a list of operations; a put of a key that another operation of the same path puts
/// or deletes is an error. The two branches of a nested transaction exclude each other, so they may agree.
fn writes(ops: &[RequestOp]) -> Result<Writes, Error> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push(KeyRange::new(&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let then = writes(&nested.success)?;
        let otherwise = writes(&nested.failure)?;
        for key in &then.puts {
            all.add_put(key, None)?;
        }
        for key in &otherwise.puts {
            all.add_put(key, Some(&then.puts))?;
        }
        all.deletes.extend(then.deletes);
        all.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.add_put(&put.key, None)?;
        }
    }
    Ok(all)
}

/// Whether a transaction changes nothing, so that it need not enter the log.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let reads = |op: &RequestOp| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
        _ => false,
    };
    request.success.iter().chain(&request.failure).all(reads)
}

/// Whether a read-only transaction may be answered from this member alone.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let serializable = |op: &RequestOp| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        Some(Request::RequestTxn(nested)) => is_serializable(nested),
        _ => false,
    };
    request.success.iter().chain(&request.failure).all(serializable)
}
