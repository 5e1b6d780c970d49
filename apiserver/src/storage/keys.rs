//! Key ranges and the three transactions that the registry needs. Pure.

use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use proto::etcdserverpb as pb;

/// The smallest key after every key that starts with `prefix`; a single zero byte means "to the end".
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A transaction that puts `value` when the key is still at `mod_revision` (0: does not exist), else reads it.
pub fn put_if(key: &Bytes, mod_revision: i64, value: Bytes, lease: i64) -> pb::TxnRequest {
    let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    guarded(key, mod_revision, Request::RequestPut(put))
}

/// A transaction that deletes the key when it is still at `mod_revision`, else reads it.
pub fn delete_if(key: &Bytes, mod_revision: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    guarded(key, mod_revision, Request::RequestDeleteRange(delete))
}

fn guarded(key: &Bytes, mod_revision: i64, then: Request) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Default::default()
    };
    let read = pb::RangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request: Some(then) }],
        failure: vec![pb::RequestOp { request: Some(Request::RequestRange(read)) }],
    }
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn prefix_end_is_the_next_key_after_the_prefix() {
        for (prefix, end) in
            [(&b"/registry/"[..], &b"/registry0"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
        {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }
}
