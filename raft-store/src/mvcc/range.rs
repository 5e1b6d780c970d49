//! The Range request: select, filter, sort, limit and count, as etcd does.

use std::{cmp::Ordering, ops::ControlFlow};

use bytes::Bytes;
use prost::Message;
use proto::{
    etcdserverpb::{
        RangeRequest, RangeResponse, ResponseHeader,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

use super::{
    keys::KeyRange,
    source::{Row, Source},
};
use crate::error::Error;

/// Answers a range from `source`, at the requested revision or its newest.
pub fn range(source: &dyn Source, request: &RangeRequest) -> Result<RangeResponse, Error> {
    check_revision(source, request.revision)?;
    if request.revision > 0 && request.revision < source.revision() {
        let past = source.at(request.revision)?;
        return select(past.as_ref(), request);
    }
    select(source, request)
}

/// Refuses revisions of the future and revisions whose history is gone.
pub fn check_revision(source: &dyn Source, revision: i64) -> Result<(), Error> {
    if revision > source.revision() {
        return Err(Error::FUTURE_REV);
    }
    if revision > 0 && revision < source.compact_revision() {
        return Err(Error::COMPACTED);
    }
    Ok(())
}

fn select(source: &dyn Source, request: &RangeRequest) -> Result<RangeResponse, Error> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let order = Order::of(request);
    let filter = Filter::of(request);
    // A limit can stop the collecting early only when rows are wanted as they come.
    let wanted = if request.count_only {
        0
    } else if request.limit > 0 && order.is_none() && !filter.is_active() {
        usize::try_from(request.limit).unwrap_or(usize::MAX)
    } else {
        usize::MAX
    };
    let mut kvs = Vec::new();
    let mut count: i64 = 0;
    source.scan(&range, &mut |row: Row<'_>| {
        count += 1;
        if kvs.len() < wanted {
            let mut kv = row.decode()?;
            if filter.keeps(&kv) {
                if request.keys_only && order.is_none() {
                    kv.value = Bytes::new();
                }
                kvs.push(kv);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let mut more = wanted != usize::MAX && !request.count_only && count > request.limit;
    if let Some(order) = order {
        kvs.sort_by(|left, right| order.compare(left, right));
    }
    if request.limit > 0 && kvs.len() as i64 > request.limit {
        kvs.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let header = ResponseHeader { revision: source.revision(), ..Default::default() };
    Ok(RangeResponse { header: Some(header), kvs, more, count })
}

/// Whether a range can be answered by copying rows as they are.
pub fn is_plain(source: &dyn Source, request: &RangeRequest) -> bool {
    let newest = request.revision == 0 || request.revision == source.revision();
    newest
        && !request.keys_only
        && !request.count_only
        && Order::of(request).is_none()
        && !Filter::of(request).is_active()
}

/// Answers a plain range as an encoded `RangeResponse`, rows copied as they stand on disk.
pub fn plain_wire(
    source: &dyn Source,
    request: &RangeRequest,
    header: &ResponseHeader,
) -> Result<Vec<u8>, Error> {
    const KVS_FIELD: u8 = 2 << 3 | 2;
    check_revision(source, request.revision)?;
    let range = KeyRange::new(&request.key, &request.range_end);
    let limit = if request.limit > 0 { request.limit } else { i64::MAX };
    let mut wire = Vec::new();
    prost::encoding::message::encode(1, header, &mut wire);
    let mut count: i64 = 0;
    source.scan(&range, &mut |row: Row<'_>| {
        count += 1;
        if count <= limit {
            wire.push(KVS_FIELD);
            match row {
                Row::Raw(_, value) => {
                    prost::encoding::encode_varint(value.len() as u64, &mut wire);
                    wire.extend_from_slice(value);
                }
                Row::Decoded(kv) => {
                    prost::encoding::encode_varint(kv.encoded_len() as u64, &mut wire);
                    kv.encode_raw(&mut wire);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if count > limit {
        prost::encoding::bool::encode(3, &true, &mut wire);
    }
    if count > 0 {
        prost::encoding::int64::encode(4, &count, &mut wire);
    }
    Ok(wire)
}

/// The order a request asks for, when it is not the order of the keys.
#[derive(Clone, Copy)]
struct Order {
    target: SortTarget,
    descending: bool,
}

impl Order {
    fn of(request: &RangeRequest) -> Option<Self> {
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
            SortOrder::Descend => Some(Self { target, descending: true }),
            // Rows come in ascending key order already.
            _ if target == SortTarget::Key => None,
            SortOrder::Ascend | SortOrder::None => Some(Self { target, descending: false }),
        }
    }

    fn compare(self, left: &KeyValue, right: &KeyValue) -> Ordering {
        let ordering = match self.target {
            SortTarget::Key => left.key.cmp(&right.key),
            SortTarget::Version => left.version.cmp(&right.version),
            SortTarget::Create => left.create_revision.cmp(&right.create_revision),
            SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
            SortTarget::Value => left.value.cmp(&right.value),
        };
        if self.descending { ordering.reverse() } else { ordering }
    }
}

/// Bounds on the revisions of the keys wanted; 0 is no bound.
struct Filter {
    modified: (i64, i64),
    created: (i64, i64),
}

impl Filter {
    fn of(request: &RangeRequest) -> Self {
        Self {
            modified: (request.min_mod_revision, request.max_mod_revision),
            created: (request.min_create_revision, request.max_create_revision),
        }
    }

    fn is_active(&self) -> bool {
        self.modified != (0, 0) || self.created != (0, 0)
    }

    fn keeps(&self, kv: &KeyValue) -> bool {
        let within = |revision: i64, (min, max): (i64, i64)| {
            (min == 0 || revision >= min) && (max == 0 || revision <= max)
        };
        within(kv.mod_revision, self.modified) && within(kv.create_revision, self.created)
    }
}
