//! The page format of a bbolt file, as far as writing and reading one in order needs it.
//!
//! Little endian throughout. Page 0 and 1 are the two meta pages; the valid one with the higher transaction
//! id counts. A bucket is a B+ tree of leaf and branch pages; a small one stands inside its parent's value.

/// Bytes of a page; longer ones go on in the pages that follow.
pub const PAGE: usize = 4096;
/// Bytes before a page's elements.
pub const PAGE_HEAD: usize = 16;
/// Bytes of an element's head, in leaf and branch pages.
pub const ELEMENT: usize = 16;
/// Bytes of a bucket's head: root page and sequence.
pub const BUCKET_HEAD: usize = 16;
/// A page with branches.
pub const BRANCH: u16 = 0x01;
/// A page with keys and values.
pub const LEAF: u16 = 0x02;
/// A meta page.
pub const META: u16 = 0x04;
/// The page of free pages.
pub const FREELIST: u16 = 0x10;
/// A leaf element whose value is a bucket.
pub const BUCKET_FLAG: u32 = 0x01;
/// First bytes of a meta record.
pub const MAGIC: u32 = 0xED0C_DAED;
/// The format's version.
pub const VERSION: u32 = 2;
/// Bytes of a meta record before its checksum.
pub const META_LEN: usize = 56;

/// The head of a page.
pub fn page_head(id: u64, flags: u16, count: u16, overflow: u32) -> [u8; PAGE_HEAD] {
    let mut head = [0; PAGE_HEAD];
    head[..8].copy_from_slice(&id.to_le_bytes());
    head[8..10].copy_from_slice(&flags.to_le_bytes());
    head[10..12].copy_from_slice(&count.to_le_bytes());
    head[12..].copy_from_slice(&overflow.to_le_bytes());
    head
}

/// The checksum of a meta record: FNV-1a.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number at a place; nothing behind the end.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number at a place; nothing behind the end.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A number at a place; nothing behind the end.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
