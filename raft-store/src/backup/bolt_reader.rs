//! Reading a bbolt file in key order. Damage is an error that names the page, never a wrong answer.

use std::{cell::Cell, fs::File, io, os::unix::fs::FileExt, path::Path};

use super::bolt::{
    BRANCH, BUCKET_FLAG, BUCKET_HEAD, ELEMENT, LEAF, MAGIC, META_LEN, PAGE_HEAD, VERSION, fnv1a, u16_at,
    u32_at, u64_at,
};

/// Deepest tree followed; bbolt's own are far flatter, so more is a loop.
const DEPTH_MAX: usize = 32;
/// Largest page taken, running on included.
const PAGE_BYTES_MAX: u64 = 1 << 31;

/// A file open for reading.
pub struct BoltReader {
    file: File,
    page_bytes: u64,
    root: u64,
    pages: u64,
    /// Pages looked at for one answer: more than there are is a loop.
    seen: Cell<u64>,
}

/// Called with each key, value, and whether the value is a bucket.
type Visit<'v> = dyn FnMut(&[u8], &[u8], bool) -> io::Result<()> + 'v;

/// Called with each key and value of a bucket.
pub type VisitKey<'v> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'v;

fn damaged(detail: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged bbolt file: {detail}"))
}

impl BoltReader {
    /// Opens a file and picks its newest valid meta page.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut head = vec![0; PAGE_HEAD + META_LEN + 8];
        let mut best: Option<(u64, Self)> = None;
        // The second meta page starts where the first says pages do; try the usual sizes.
        for at in [0_u64, 4096, 8192, 16384, 32768, 65536] {
            if file.read_exact_at(&mut head, at).is_err() {
                continue;
            }
            let Some((transaction, found)) = parse_meta(&head, &file)? else { continue };
            if best.as_ref().is_none_or(|(known, _)| transaction > *known) {
                best = Some((transaction, found));
            }
        }
        best.map(|(_, reader)| reader).ok_or_else(|| damaged("no valid meta page; is this a snapshot file?"))
    }

    /// Calls `visit` with every key of a bucket of the root, in order; `false` when there is no such bucket.
    pub fn bucket(&self, name: &str, visit: &mut VisitKey<'_>) -> io::Result<bool> {
        self.seen.set(0);
        let mut found = None;
        self.walk(self.root, 0, &mut |key, value, is_bucket| {
            if is_bucket && key == name.as_bytes() {
                found = Some(value.to_vec());
            }
            Ok(())
        })?;
        let Some(value) = found else { return Ok(false) };
        let root = u64_at(&value, 0).ok_or_else(|| damaged("a bucket's head"))?;
        let mut inner = |key: &[u8], value: &[u8], _: bool| visit(key, value);
        if root == 0 {
            let page = value.get(BUCKET_HEAD..).ok_or_else(|| damaged("an inline bucket"))?;
            self.walk_page(page, 0, &mut inner)?;
        } else {
            self.walk(root, 0, &mut inner)?;
        }
        Ok(true)
    }

    /// The names of the root's buckets, in order.
    pub fn buckets(&self) -> io::Result<Vec<String>> {
        self.seen.set(0);
        let mut names = Vec::new();
        self.walk(self.root, 0, &mut |key, _, is_bucket| {
            names.extend(is_bucket.then(|| String::from_utf8_lossy(key).into_owned()));
            Ok(())
        })?;
        Ok(names)
    }

    fn walk(&self, id: u64, depth: usize, visit: &mut Visit<'_>) -> io::Result<()> {
        // The root is read once to find the bucket.
        let seen = self.seen.get() + 1;
        self.seen.set(seen);
        if depth > DEPTH_MAX || id >= self.pages || seen > 2 * self.pages {
            return Err(damaged(format!("page {id} cannot be where it is")));
        }
        let mut head = [0; PAGE_HEAD];
        self.file.read_exact_at(&mut head, id * self.page_bytes)?;
        let overflow = u32_at(&head, 12).map_or(0, u64::from);
        let bytes = (overflow + 1) * self.page_bytes;
        if u64_at(&head, 0) != Some(id) || bytes > PAGE_BYTES_MAX || id + overflow >= self.pages {
            return Err(damaged(format!("the head of page {id}")));
        }
        let mut page = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut page, id * self.page_bytes)?;
        self.walk_page(&page, depth, visit)
    }

    fn walk_page(&self, page: &[u8], depth: usize, visit: &mut Visit<'_>) -> io::Result<()> {
        let (flags, count) = u16_at(page, 8).zip(u16_at(page, 10)).ok_or_else(|| damaged("a page's head"))?;
        for number in 0..usize::from(count) {
            let at = PAGE_HEAD + ELEMENT * number;
            let bad = || damaged(format!("element {number} of a page"));
            let word = |offset: usize| u32_at(page, at + offset).map(|word| word as usize).ok_or_else(bad);
            match flags {
                LEAF => {
                    let (position, key, value) = (at + word(4)?, word(8)?, word(12)?);
                    let data = page.get(position..position + key + value).ok_or_else(bad)?;
                    let is_bucket = word(0)? as u32 & BUCKET_FLAG != 0;
                    visit(&data[..key], &data[key..], is_bucket)?;
                }
                BRANCH => self.walk(u64_at(page, at + 8).ok_or_else(bad)?, depth + 1, visit)?,
                other => return Err(damaged(format!("a page of kind {other:#x} in a tree"))),
            }
        }
        Ok(())
    }
}

fn parse_meta(head: &[u8], file: &File) -> io::Result<Option<(u64, BoltReader)>> {
    let meta = &head[PAGE_HEAD..];
    let checksum = u64_at(meta, META_LEN);
    if u32_at(meta, 0) != Some(MAGIC)
        || u32_at(meta, 4) != Some(VERSION)
        || checksum != Some(fnv1a(&meta[..META_LEN]))
    {
        return Ok(None);
    }
    let (Some(page_bytes), Some(root), Some(pages), Some(transaction)) =
        (u32_at(meta, 8), u64_at(meta, 16), u64_at(meta, 40), u64_at(meta, 48))
    else {
        return Ok(None);
    };
    let reader = BoltReader {
        file: file.try_clone()?,
        page_bytes: page_bytes.into(),
        root,
        pages,
        seen: Cell::new(0),
    };
    Ok(Some((transaction, reader)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::bolt_writer::BoltWriter;

    fn write(path: &Path, keys: usize) {
        let mut file = BoltWriter::create(path).unwrap();
        file.bucket("empty").finish().unwrap();
        let mut bucket = file.bucket("key");
        for number in 0..keys {
            let value = vec![number as u8; number * 7 % 9000];
            bucket.put(format!("{number:08}").as_bytes(), &value).unwrap();
        }
        bucket.finish().unwrap();
        file.finish().unwrap();
    }

    #[test]
    fn what_was_written_is_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        for keys in [0, 1, 3, 5_000] {
            write(&path, keys);
            let reader = BoltReader::open(&path).unwrap();
            let mut seen = 0;
            let found = reader.bucket("key", &mut |key, value| {
                assert_eq!(key, format!("{seen:08}").as_bytes());
                assert_eq!(value, vec![seen as u8; seen * 7 % 9000]);
                seen += 1;
                Ok(())
            });
            assert!(found.unwrap());
            assert_eq!(seen, keys);
            assert!(reader.bucket("empty", &mut |_, _| Err(io::Error::other("not empty"))).unwrap());
            assert!(!reader.bucket("none", &mut |_, _| Ok(())).unwrap());
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        write(&path, 200);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 10, 4096, 8192, whole.len() / 2] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let read = BoltReader::open(&path).and_then(|reader| reader.bucket("key", &mut |_, _| Ok(())));
            assert!(read.is_err(), "cut at {cut}");
        }
        for at in (3 * 4096..whole.len()).step_by(97) {
            let mut bad = whole.clone();
            bad[at] ^= 0xFF;
            std::fs::write(&path, &bad).unwrap();
            // A value may differ without notice: the file's own checksum is for that.
            let _ = BoltReader::open(&path).and_then(|reader| reader.bucket("key", &mut |_, _| Ok(())));
        }
    }
}
