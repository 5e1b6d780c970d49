//! Writing a bbolt file front to back from sorted keys, a bucket at a time.

use std::{
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::Path,
};

use super::bolt::{
    BRANCH, BUCKET_FLAG, BUCKET_HEAD, ELEMENT, FREELIST, LEAF, MAGIC, META, META_LEN, PAGE, PAGE_HEAD,
    VERSION, fnv1a, page_head,
};

/// Bytes after which a page is closed. A larger single value still fits: pages may run on.
const PAGE_FULL: usize = 4 * PAGE;
/// The transaction the file seems to come from.
const TRANSACTION: u64 = 1;

/// One key with a value, or with the page that holds what follows it.
struct Element {
    key: Vec<u8>,
    value: Vec<u8>,
    flags: u32,
    page: u64,
}

/// A file being written.
pub struct BoltWriter {
    file: BufWriter<File>,
    next_page: u64,
    buckets: Vec<(Vec<u8>, u64)>,
}

/// A bucket being written; keys must come in ascending order.
pub struct BucketWriter<'f> {
    file: &'f mut BoltWriter,
    name: Vec<u8>,
    page: Vec<Element>,
    bytes: usize,
    leaves: Vec<(Vec<u8>, u64)>,
}

impl BoltWriter {
    /// Begins a file; the first pages are filled in at the end.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&vec![0; 3 * PAGE])?;
        Ok(Self { file, next_page: 3, buckets: Vec::new() })
    }

    /// Begins a bucket of the file's root; names must come in ascending order.
    pub fn bucket(&mut self, name: &str) -> BucketWriter<'_> {
        BucketWriter { file: self, name: name.into(), page: Vec::new(), bytes: PAGE_HEAD, leaves: Vec::new() }
    }

    /// Writes the root and the meta pages; the file is complete and on disk afterwards.
    pub fn finish(mut self) -> io::Result<()> {
        let elements = std::mem::take(&mut self.buckets).into_iter().map(|(key, root)| Element {
            key,
            value: bucket_value(root),
            flags: BUCKET_FLAG,
            page: 0,
        });
        let elements: Vec<Element> = elements.collect();
        let root = self.write_page(LEAF, &elements)?;
        let high_water = self.next_page;
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        for page in 0..2 {
            file.seek(SeekFrom::Start(page * PAGE as u64))?;
            file.write_all(&meta_page(page, root, high_water))?;
        }
        file.seek(SeekFrom::Start(2 * PAGE as u64))?;
        file.write_all(&page_head(2, FREELIST, 0, 0))?;
        file.set_len(high_water * PAGE as u64)?;
        file.sync_all()
    }

    fn write_page(&mut self, flags: u16, elements: &[Element]) -> io::Result<u64> {
        let id = self.next_page;
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(&[0; PAGE_HEAD]);
        let mut data = PAGE_HEAD + ELEMENT * elements.len();
        for (at, element) in elements.iter().enumerate() {
            let own = PAGE_HEAD + ELEMENT * at;
            let position = small(data - own)?;
            let key = small(element.key.len())?;
            if flags == LEAF {
                page.extend_from_slice(&element.flags.to_le_bytes());
                page.extend_from_slice(&position.to_le_bytes());
                page.extend_from_slice(&key.to_le_bytes());
                page.extend_from_slice(&small(element.value.len())?.to_le_bytes());
            } else {
                page.extend_from_slice(&position.to_le_bytes());
                page.extend_from_slice(&key.to_le_bytes());
                page.extend_from_slice(&element.page.to_le_bytes());
            }
            data += element.key.len() + element.value.len();
        }
        for element in elements {
            page.extend_from_slice(&element.key);
            page.extend_from_slice(&element.value);
        }
        let pages = page.len().div_ceil(PAGE);
        page.resize(pages * PAGE, 0);
        let count = u16::try_from(elements.len()).map_err(io::Error::other)?;
        page[..PAGE_HEAD].copy_from_slice(&page_head(id, flags, count, small(pages - 1)?));
        self.file.write_all(&page)?;
        self.next_page += pages as u64;
        Ok(id)
    }

    /// Builds branch pages over `children` until one page is left.
    fn write_branches(&mut self, mut children: Vec<(Vec<u8>, u64)>) -> io::Result<u64> {
        while children.len() > 1 {
            let mut above = Vec::new();
            let mut page: Vec<Element> = Vec::new();
            let mut bytes = PAGE_HEAD;
            for (key, child) in children {
                if bytes + ELEMENT + key.len() > PAGE_FULL && page.len() > 1 {
                    above.push(self.write_branch(&page)?);
                    page.clear();
                    bytes = PAGE_HEAD;
                }
                bytes += ELEMENT + key.len();
                page.push(Element { key, value: Vec::new(), flags: 0, page: child });
            }
            above.push(self.write_branch(&page)?);
            children = above;
        }
        children.pop().map(|(_, root)| root).ok_or_else(|| io::Error::other("a bucket without pages"))
    }

    fn write_branch(&mut self, page: &[Element]) -> io::Result<(Vec<u8>, u64)> {
        let first = page.first().map(|element| element.key.clone()).unwrap_or_default();
        Ok((first, self.write_page(BRANCH, page)?))
    }
}

impl BucketWriter<'_> {
    /// Adds the next key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let size = ELEMENT + key.len() + value.len();
        if self.bytes + size > PAGE_FULL && !self.page.is_empty() {
            self.flush()?;
        }
        self.bytes += size;
        self.page.push(Element { key: key.to_vec(), value: value.to_vec(), flags: 0, page: 0 });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let page = std::mem::take(&mut self.page);
        let first = page.first().map(|element| element.key.clone()).unwrap_or_default();
        self.leaves.push((first, self.file.write_page(LEAF, &page)?));
        self.bytes = PAGE_HEAD;
        Ok(())
    }

    /// Closes the bucket.
    pub fn finish(mut self) -> io::Result<()> {
        if !self.page.is_empty() || self.leaves.is_empty() {
            self.flush()?;
        }
        let root = self.file.write_branches(self.leaves)?;
        self.file.buckets.push((self.name, root));
        Ok(())
    }
}

fn small(number: usize) -> io::Result<u32> {
    u32::try_from(number).map_err(io::Error::other)
}

fn bucket_value(root: u64) -> Vec<u8> {
    let mut value = root.to_le_bytes().to_vec();
    value.resize(BUCKET_HEAD, 0);
    value
}

fn meta_page(id: u64, root: u64, high_water: u64) -> Vec<u8> {
    let mut meta = Vec::with_capacity(META_LEN + 8);
    meta.extend_from_slice(&MAGIC.to_le_bytes());
    meta.extend_from_slice(&VERSION.to_le_bytes());
    meta.extend_from_slice(&(PAGE as u32).to_le_bytes());
    meta.extend_from_slice(&0_u32.to_le_bytes());
    meta.extend_from_slice(&bucket_value(root));
    // The page of free pages, the first page behind the last, the transaction.
    for number in [2, high_water, TRANSACTION + id] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    let checksum = fnv1a(&meta);
    meta.extend_from_slice(&checksum.to_le_bytes());
    let mut page = page_head(id, META, 0, 0).to_vec();
    page.extend_from_slice(&meta);
    page
}
