//! How keys, ranges and revisions are laid out as RocksDB keys.

use bytes::Bytes;

/// A position in history: the transaction's revision and the place inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// One per transaction.
    pub revision: i64,
    /// Counts the changes of one transaction from 0.
    pub sub: u32,
}

/// Bytes of an encoded `Position`.
pub const POSITION_LEN: usize = 12;

impl Position {
    /// Big endian, so that rows sort by time.
    pub fn encode(self) -> [u8; POSITION_LEN] {
        let mut row = [0; POSITION_LEN];
        row[..8].copy_from_slice(&self.revision.to_be_bytes());
        row[8..].copy_from_slice(&self.sub.to_be_bytes());
        row
    }

    /// The inverse of `encode`; nothing when the bytes are not one.
    pub fn decode(row: &[u8]) -> Option<Self> {
        let revision = i64::from_be_bytes(row.get(..8)?.try_into().ok()?);
        let sub = u32::from_be_bytes(row.get(8..POSITION_LEN)?.try_into().ok()?);
        Some(Self { revision, sub })
    }
}

/// A set of user keys: one, or a half-open interval.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// Where the range ends.
    pub end: End,
}

/// The upper end of a `KeyRange`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Only the start key itself.
    Point,
    /// Up to, not including, this key.
    Before(Bytes),
    /// To the last key there is.
    Unbounded,
}

impl KeyRange {
    /// etcd's rule: no end is one key, a single zero byte is "to the last key", anything else excludes the end.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => End::Point,
            [0] => End::Unbounded,
            _ => End::Before(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// Whether the range holds no key at all, whatever the store holds.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if end <= &self.start)
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Point => key == self.start.as_ref(),
            End::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            End::Unbounded => key >= self.start.as_ref(),
        }
    }

    /// The excluded upper bound as a row key, for a range that is not a point.
    pub fn upper_bound(&self) -> Option<Bytes> {
        match &self.end {
            End::Point => {
                let mut next = self.start.to_vec();
                next.push(0);
                Some(next.into())
            }
            End::Before(end) => Some(end.clone()),
            End::Unbounded => None,
        }
    }

    /// Whether every key of `other` is in this range.
    pub fn covers(&self, other: &KeyRange) -> bool {
        if other.start < self.start {
            return false;
        }
        match (self.upper_bound(), other.upper_bound()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs <= mine,
        }
    }

    /// Whether some key could be in both ranges.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let before = |upper: Option<Bytes>, start: &Bytes| upper.is_some_and(|upper| upper <= *start);
        !before(self.upper_bound(), &other.start) && !before(other.upper_bound(), &self.start)
    }
}

/// Prefix of every `Versions` row of one user key: escaped so that no key's rows mix with another's.
///
/// A zero byte becomes `00 FF` and the key ends with `00 01`; the order of user keys is kept.
pub fn version_prefix(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 2 + 8);
    for byte in key {
        row.push(*byte);
        if *byte == 0 {
            row.push(0xFF);
        }
    }
    row.extend_from_slice(&[0, 1]);
    row
}

/// The `Versions` row of a key at a revision; newer revisions sort first.
pub fn version_row(key: &[u8], revision: i64) -> Vec<u8> {
    let mut row = version_prefix(key);
    row.extend_from_slice(&(!revision).to_be_bytes());
    row
}

/// Splits a `Versions` row into user key and revision; nothing when it is not one.
pub fn split_version_row(row: &[u8]) -> Option<(Vec<u8>, i64)> {
    let (escaped, tail) = row.split_at_checked(row.len().checked_sub(8)?)?;
    let escaped = escaped.strip_suffix(&[0, 1])?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xFF) {
            return None;
        }
    }
    Some((key, !i64::from_be_bytes(tail.try_into().ok()?)))
}

/// The first row after every version of `key`.
pub fn after_versions(key: &[u8]) -> Vec<u8> {
    let mut row = version_prefix(key);
    if let Some(last) = row.last_mut() {
        *last = 2;
    }
    row
}

/// The `LeaseKeys` row that ties a key to a lease.
pub fn lease_key_row(lease: i64, key: &[u8]) -> Vec<u8> {
    let mut row = lease.to_be_bytes().to_vec();
    row.extend_from_slice(key);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static [u8]) -> KeyRange {
        KeyRange::new(&Bytes::from_static(start.as_bytes()), &Bytes::from_static(end))
    }

    #[test]
    fn ranges_cover_and_overlap_as_sets_do() {
        let cases = [
            (range("a", b""), range("a", b""), true, true),
            (range("a", b"c"), range("b", b""), true, true),
            (range("a", b"c"), range("c", b""), false, false),
            (range("a", b"\0"), range("zz", b"\0"), true, true),
            (range("b", b"d"), range("a", b"c"), false, true),
            (range("b", b""), range("b", b"c"), false, true),
            (range("a", b"z"), range("b", b"\0"), false, true),
        ];
        for (left, right, covers, overlaps) in cases {
            assert_eq!(left.covers(&right), covers, "{left:?} covers {right:?}");
            assert_eq!(left.overlaps(&right), overlaps, "{left:?} overlaps {right:?}");
            assert_eq!(right.overlaps(&left), overlaps, "{right:?} overlaps {left:?}");
        }
    }

    #[test]
    fn version_rows_sort_by_key_then_newest_first() {
        let mut rows = Vec::new();
        for key in [b"".as_slice(), b"\0", b"\0\x01", b"a", b"a\0", b"a\0b", b"ab", b"b"] {
            for revision in [9, 3, 1] {
                let row = version_row(key, revision);
                assert_eq!(split_version_row(&row), Some((key.to_vec(), revision)));
                assert!(row < after_versions(key));
                rows.push(row);
            }
        }
        assert!(rows.is_sorted());
    }
}
