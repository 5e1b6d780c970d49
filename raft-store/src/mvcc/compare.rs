//! The conditions of a transaction.

use std::{cmp::Ordering, ops::ControlFlow};

use proto::{
    etcdserverpb::{
        Compare,
        compare::{CompareResult, CompareTarget, TargetUnion},
    },
    mvccpb::KeyValue,
};

use super::{keys::KeyRange, source::Source};
use crate::error::Error;

/// Whether every condition holds.
pub fn all_hold(source: &dyn Source, compares: &[Compare]) -> Result<bool, Error> {
    for compare in compares {
        if !holds(source, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a condition holds for every key of its range. A missing key counts as one with all zeros, but
/// has no value to compare.
fn holds(source: &dyn Source, compare: &Compare) -> Result<bool, Error> {
    let mut found = false;
    let mut all = true;
    if compare.range_end.is_empty() {
        if let Some(kv) = source.get(&compare.key)? {
            found = true;
            all = matches(compare, &kv);
        }
    } else {
        source.scan(&KeyRange::new(&compare.key, &compare.range_end), &mut |row| {
            found = true;
            all = matches(compare, &row.decode()?);
            Ok(if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    if found {
        return Ok(all);
    }
    Ok(compare.target != CompareTarget::Value as i32 && matches(compare, &KeyValue::default()))
}

fn matches(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = if let Some(TargetUnion::Value(value)) = union { value.as_ref() } else { &[] };
            kv.value.as_ref().cmp(wanted)
        }
        Ok(CompareTarget::Create) => {
            kv.create_revision.cmp(&if let Some(TargetUnion::CreateRevision(n)) = union { *n } else { 0 })
        }
        Ok(CompareTarget::Mod) => {
            kv.mod_revision.cmp(&if let Some(TargetUnion::ModRevision(n)) = union { *n } else { 0 })
        }
        Ok(CompareTarget::Version) => {
            kv.version.cmp(&if let Some(TargetUnion::Version(n)) = union { *n } else { 0 })
        }
        Ok(CompareTarget::Lease) => {
            kv.lease.cmp(&if let Some(TargetUnion::Lease(n)) = union { *n } else { 0 })
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
