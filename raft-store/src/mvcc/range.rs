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
    pieces::Pieces,
    source::{Row, Source},
};
use crate::error::Error;

/// Bytes of a row's field besides the row: its key and its length.
const FIELD_BYTES_MAX: usize = 11;

/// Answers a range from `source`, at the requested revision or its newest.
pub fn range(source: &dyn Source, request: &RangeRequest) -> Result<RangeResponse, Error> {
    check_revision(source, request.revision)?;
    if request.revision > 0 && request.revision < source.revision() {
        let range = KeyRange::new(&request.key, &request.range_end);
        let past = source.at(request.revision, &range)?;
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
    let header = Some(ResponseHeader { revision: source.revision(), ..Default::default() });
    if request.count_only {
        return Ok(RangeResponse { header, count: source.count(&range)?, ..Default::default() });
    }
    let order = Order::of(request);
    let filter = Filter::of(request);
    // A limit can stop the collecting early only when rows are wanted as they come. Where a target is named but no order,
    // etcd sorts the first rows alone, and one more.
    let is_ordered = request.sort_order != SortOrder::None as i32;
    let wanted = match limit_of(request) {
        _ if request.limit <= 0 || filter.is_active() => usize::MAX,
        limit if order.is_none() => limit,
        limit if !is_ordered => limit.saturating_add(1),
        _ => usize::MAX,
    };
    let mut kvs = Vec::new();
    let mut more = false;
    let mut count: i64 = 0;
    source.scan(&range, &mut |row: Row<'_>| {
        if kvs.len() == wanted {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        count += 1;
        let mut kv = row.decode()?;
        if filter.keeps(&kv) {
            if request.keys_only && order.is_none() {
                kv.value = Bytes::new();
            }
            kvs.push(kv);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if more {
        count = source.count(&range)?;
    }
    if let Some(order) = order {
        kvs.sort_by(|left, right| order.compare(left, right));
    }
    if request.limit > 0 && kvs.len() > limit_of(request) {
        kvs.truncate(limit_of(request));
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(RangeResponse { header, kvs, more, count })
}

fn limit_of(request: &RangeRequest) -> usize {
    usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
}

/// Whether a range can be answered by copying rows as they are.
pub fn is_plain(request: &RangeRequest) -> bool {
    !request.keys_only
        && !request.count_only
        && Order::of(request).is_none()
        && !Filter::of(request).is_active()
}

/// Answers a plain range as an encoded `RangeResponse`: rows are copied as they stand on disk, once.
pub fn plain_wire(
    source: &dyn Source,
    request: &RangeRequest,
    header: &ResponseHeader,
) -> Result<Pieces, Error> {
    check_revision(source, request.revision)?;
    let range = KeyRange::new(&request.key, &request.range_end);
    if request.revision > 0 && request.revision < source.revision() {
        let past = source.at(request.revision, &range)?;
        return copy_rows(past.as_ref(), &range, request, header);
    }
    copy_rows(source, &range, request, header)
}

fn copy_rows(
    source: &dyn Source,
    range: &KeyRange,
    request: &RangeRequest,
    header: &ResponseHeader,
) -> Result<Pieces, Error> {
    const KVS_FIELD: u8 = 2 << 3 | 2;
    let limit = limit_of(request);
    let mut wire = Pieces::default();
    wire.append(header.encoded_len() + FIELD_BYTES_MAX, |wire| {
        prost::encoding::message::encode(1, header, wire);
    });
    let mut copied = 0;
    let mut more = false;
    source.scan(range, &mut |row: Row<'_>| {
        if copied == limit {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        copied += 1;
        let length = row.encoded_len();
        wire.append(length + FIELD_BYTES_MAX, |wire| {
            wire.push(KVS_FIELD);
            prost::encoding::encode_varint(length as u64, wire);
            match row {
                Row::Raw(_, value) => wire.extend_from_slice(value),
                Row::Decoded(kv) => kv.encode_raw(wire),
            }
        });
        Ok(ControlFlow::Continue(()))
    })?;
    let count = if more { source.count(range)? } else { i64::try_from(copied).unwrap_or(i64::MAX) };
    wire.append(2 * FIELD_BYTES_MAX, |wire| {
        if more {
            prost::encoding::bool::encode(3, &true, wire);
        }
        if count > 0 {
            prost::encoding::int64::encode(4, &count, wire);
        }
    });
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
