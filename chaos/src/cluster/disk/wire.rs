//! The bytes the kernel and a file system in user space exchange over `/dev/fuse`: the few requests a store's files need.
//!
//! Numbers and layouts are those of Linux's `fuse.h`, protocol 7.31. Requests that are not understood are refused as not
//! implemented, which the kernel takes well.

use super::store::{Attributes, ENOSYS, Errno};

/// The protocol's version that is spoken.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// Bytes of a request's head.
const IN_HEAD: usize = 40;
/// Largest write, and with it the largest request.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// `FUSE_BIG_WRITES | FUSE_MAX_PAGES`: writes larger than a page.
const INIT_FLAGS: u32 = 1 << 5 | 1 << 22;
const PAGES_MAX: u16 = 256;
/// Bits of `fuse_setattr_in.valid`.
const SETS_MODE: u32 = 1;
const SETS_SIZE: u32 = 1 << 3;

/// A request, with the file or folder it is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Init {
        minor: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    /// No answer is expected.
    Forget,
    GetAttributes,
    SetAttributes {
        mode: Option<u32>,
        size: Option<u64>,
    },
    MakeFolder {
        name: &'a [u8],
        mode: u32,
    },
    Remove {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        folder: u64,
        new_name: &'a [u8],
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open,
    Create {
        name: &'a [u8],
        mode: u32,
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    Statfs,
    Release,
    Sync,
    ReadFolder {
        offset: u64,
        size: u32,
    },
    Allocate {
        offset: u64,
        length: u64,
        mode: u32,
    },
    /// What needs no more than an answer that all is well.
    Nothing,
    Unknown,
}

/// Name of a request, to answer it by, and the node it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub unique: u64,
    pub node: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The text up to the next zero byte, and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Reads one request; nothing if it is cut short.
pub fn parse(message: &[u8]) -> Option<(Head, Request<'_>)> {
    let opcode = u32_at(message, 4)?;
    let head = Head { unique: u64_at(message, 8)?, node: u64_at(message, 16)? };
    let body = message.get(IN_HEAD..)?;
    let name = |from: usize| body.get(from..).and_then(text);
    let request = match opcode {
        1 => Request::Lookup { name: name(0)?.0 },
        2 | 42 => Request::Forget,
        3 => Request::GetAttributes,
        4 => {
            let valid = u32_at(body, 0)?;
            let (size, mode) = (u64_at(body, 16)?, u32_at(body, 68)?);
            Request::SetAttributes {
                mode: (valid & SETS_MODE != 0).then_some(mode),
                size: (valid & SETS_SIZE != 0).then_some(size),
            }
        }
        9 => Request::MakeFolder { mode: u32_at(body, 0)?, name: name(8)?.0 },
        10 | 11 => Request::Remove { name: name(0)?.0 },
        // RENAME, and RENAME2 with its flags.
        12 | 45 => {
            let (name, rest) = name(if opcode == 12 { 8 } else { 16 })?;
            Request::Rename { folder: u64_at(body, 0)?, name, new_name: text(rest)?.0 }
        }
        13 => Request::Link { node: u64_at(body, 0)?, name: name(8)?.0 },
        14 | 27 => Request::Open,
        15 => Request::Read { offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
        16 => {
            let size = u32_at(body, 16)? as usize;
            Request::Write { offset: u64_at(body, 8)?, data: body.get(40..40 + size)? }
        }
        17 => Request::Statfs,
        18 => Request::Release,
        20 => Request::Sync,
        26 => Request::Init { minor: u32_at(body, 4)? },
        28 => Request::ReadFolder { offset: u64_at(body, 8)?, size: u32_at(body, 16)? },
        35 => Request::Create { mode: u32_at(body, 4)?, name: name(16)?.0 },
        43 => {
            Request::Allocate { offset: u64_at(body, 8)?, length: u64_at(body, 16)?, mode: u32_at(body, 24)? }
        }
        // FLUSH, RELEASEDIR, FSYNCDIR.
        25 | 29 | 30 => Request::Nothing,
        // INTERRUPT: every request is answered at once anyway.
        36 => Request::Forget,
        _ => Request::Unknown,
    };
    Some((head, request))
}

/// The body of an answer, in the making.
#[derive(Default)]
pub struct Body(Vec<u8>);

impl Body {
    pub fn bytes(bytes: &[u8]) -> Self {
        Body(bytes.to_vec())
    }

    fn u64s(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|value| self.0.extend_from_slice(&value.to_le_bytes()));
        self
    }

    fn u32s(mut self, values: &[u32]) -> Self {
        values.iter().for_each(|value| self.0.extend_from_slice(&value.to_le_bytes()));
        self
    }

    fn attributes(self, of: &Attributes) -> Self {
        let (secs, nanos) = (of.modified.as_secs(), of.modified.subsec_nanos());
        let kind = if of.is_folder { libc::S_IFDIR } else { libc::S_IFREG };
        self.u64s(&[of.node, of.size, of.size.div_ceil(512), secs, secs, secs]).u32s(&[
            nanos,
            nanos,
            nanos,
            kind | of.mode,
            of.links,
            0,
            0,
            0,
            super::store::BLOCK_BYTES,
            0,
        ])
    }

    pub fn init(minor: u32) -> Self {
        let (background, congestion) = (16_u32, 12_u32);
        Body::default()
            .u32s(&[
                MAJOR,
                MINOR.min(minor),
                0,
                INIT_FLAGS,
                background | congestion << 16,
                WRITE_BYTES_MAX,
                1,
            ])
            .u32s(&[u32::from(PAGES_MAX), 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Nothing of it may be cached.
    pub fn entry(of: &Attributes) -> Self {
        Body::default().u64s(&[of.node, 0, 0, 0]).u32s(&[0, 0]).attributes(of)
    }

    pub fn attribute(of: &Attributes) -> Self {
        Body::default().u64s(&[0]).u32s(&[0, 0]).attributes(of)
    }

    pub fn opened() -> Self {
        Body::default().u64s(&[0]).u32s(&[0, 0])
    }

    pub fn created(of: &Attributes) -> Self {
        let mut body = Body::entry(of);
        body.0.extend(Body::opened().0);
        body
    }

    pub fn written(count: u32) -> Self {
        Body::default().u32s(&[count, 0])
    }

    pub fn statfs(blocks: u64, free: u64) -> Self {
        let files = 1 << 20;
        let block = super::store::BLOCK_BYTES;
        Body::default()
            .u64s(&[blocks, free, free, files, files])
            .u32s(&[block, 255, block, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Adds an entry of a folder; `false` if it would grow beyond `size`.
    pub fn add_entry(&mut self, size: usize, node: u64, next: u64, is_folder: bool, name: &[u8]) -> bool {
        let kind = u32::from(if is_folder { libc::DT_DIR } else { libc::DT_REG });
        let padded = name.len().next_multiple_of(8);
        if self.0.len() + 24 + padded > size {
            return false;
        }
        let body = std::mem::take(self).u64s(&[node, next]).u32s(&[name.len() as u32, kind]);
        *self = body;
        self.0.extend_from_slice(name);
        self.0.resize(self.0.len() + padded - name.len(), 0);
        true
    }

    /// The whole answer.
    pub fn message(outcome: Result<Body, Errno>, unique: u64) -> Vec<u8> {
        let (errno, body) = match outcome {
            Ok(body) => (0, body.0),
            Err(errno) => (errno, Vec::new()),
        };
        let mut message =
            Body::default().u32s(&[16 + body.len() as u32, errno.wrapping_neg() as u32]).u64s(&[unique]);
        message.0.extend(body);
        message.0
    }
}

/// The answer to what is not understood.
pub fn refusal() -> Result<Body, Errno> {
    Err(ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Body::default().u32s(&[0, opcode]).u64s(&[7, 1]).0;
        bytes.resize(IN_HEAD, 0);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn requests_are_read_as_the_kernel_writes_them() {
        let words = |values: &[u64]| Body::default().u64s(values).0;
        let with = |values: &[u64], text: &[u8]| [words(values), text.to_vec()].concat();
        let (lookup, rename, write) =
            (b"a\0".to_vec(), with(&[5], b"old\0new\0"), with(&[0, 9, 3, 0, 0], b"xyz"));
        for (opcode, body, expected) in [
            (1, &lookup, Request::Lookup { name: b"a" }),
            (12, &rename, Request::Rename { folder: 5, name: b"old", new_name: b"new" }),
            (16, &write, Request::Write { offset: 9, data: b"xyz" }),
            (99, &lookup, Request::Unknown),
        ] {
            let whole = message(opcode, body);
            let (head, request) = parse(&whole).expect("whole");
            assert_eq!((head, request), (Head { unique: 7, node: 1 }, expected), "{opcode}");
        }
        assert_eq!(parse(&message(16, &write[..41])), None, "cut short");
        assert_eq!(parse(&[0; 20]), None);
    }

    #[test]
    fn answers_are_as_long_as_they_say() {
        let of = Attributes { node: 2, size: 5, ..Attributes::default() };
        for (body, length) in [
            (Body::entry(&of), 128),
            (Body::attribute(&of), 104),
            (Body::created(&of), 144),
            (Body::init(40), 64),
        ] {
            let whole = Body::message(Ok(body), 3);
            assert_eq!(whole.len(), 16 + length);
            assert_eq!(u32_at(&whole, 0), Some(16 + length as u32));
        }
        let refused = Body::message(refusal(), 3);
        assert_eq!((refused.len(), u32_at(&refused, 4)), (16, Some(ENOSYS.wrapping_neg() as u32)));
    }
}
