//! What a user may read and write: the union of the ranges of all its roles.

use proto::authpb::{Permission, permission::Type};

use crate::mvcc::keys::{End, KeyRange};

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Needed for a range, a compare, and previous values.
    Read,
    /// Needed for puts and deletes.
    Write,
}

/// Whether a permission's range is one: a key, and an end behind it.
pub fn is_valid_range(permission: &Permission) -> bool {
    let range = KeyRange::new(&permission.key, &permission.range_end);
    let is_behind = match &range.end {
        End::Point | End::Unbounded => true,
        End::Before(end) => end > &permission.key,
    };
    !permission.key.is_empty() && is_behind
}

fn grants(permission: &Permission, access: Access) -> bool {
    match Type::try_from(permission.perm_type) {
        Ok(Type::Readwrite) => true,
        Ok(Type::Read) => access == Access::Read,
        Ok(Type::Write) => access == Access::Write,
        Err(_) => false,
    }
}

/// Whether the permissions together cover every key of `wanted`.
pub fn covers<'p>(
    permissions: impl Iterator<Item = &'p Permission>,
    wanted: &KeyRange,
    access: Access,
) -> bool {
    let mut ranges: Vec<KeyRange> = permissions
        .filter(|permission| grants(permission, access))
        .map(|permission| KeyRange::new(&permission.key, &permission.range_end))
        .collect();
    ranges.sort_by(|left, right| left.start.cmp(&right.start));
    // Walk along the wanted range; `reached` is the first key not yet known to be covered.
    let mut reached = wanted.start.clone();
    for range in ranges {
        if range.start > reached {
            return false;
        }
        let Some(upper) = range.upper_bound() else { return true };
        if upper > reached {
            reached = upper;
        }
        if wanted.upper_bound().is_some_and(|end| end <= reached) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn permission(key: &'static str, end: &'static [u8], perm_type: Type) -> Permission {
        Permission {
            perm_type: perm_type as i32,
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end),
        }
    }

    #[test]
    fn ranges_add_up_and_gaps_deny() {
        let granted = [
            permission("a", b"c", Type::Read),
            permission("c", b"e", Type::Readwrite),
            permission("k", b"", Type::Write),
            permission("x", b"\0", Type::Readwrite),
        ];
        let cases: &[(&'static str, &'static [u8], Access, bool)] = &[
            ("a", b"", Access::Read, true),
            ("a", b"e", Access::Read, true),
            ("a", b"f", Access::Read, false),
            ("a", b"", Access::Write, false),
            ("d", b"", Access::Write, true),
            ("k", b"", Access::Write, true),
            ("k", b"", Access::Read, false),
            ("k", b"l", Access::Write, false),
            ("y", b"\0", Access::Write, true),
            ("a", b"\0", Access::Read, false),
        ];
        for (key, end, access, expected) in cases {
            let wanted = KeyRange::new(&Bytes::from_static(key.as_bytes()), &Bytes::from_static(end));
            assert_eq!(covers(granted.iter(), &wanted, *access), *expected, "{wanted:?} {access:?}");
        }
    }
}
