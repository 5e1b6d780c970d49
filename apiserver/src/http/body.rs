//! Answer bodies: whole bytes, lists streamed from shared bytes, gzip.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use crate::cache::Entry;

/// Any answer body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers are compressed from this size on (upstream `defaultGzipThresholdBytes`).
pub const GZIP_MIN_LEN: usize = 128 * 1024;
/// Pieces a long list is sent in: large enough to fill TLS records, small enough to hold little memory.
const CHUNK_LEN: usize = 64 * 1024;

/// The bytes as one body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub fn empty() -> Body {
    full(Bytes::new())
}

/// Whatever the stream yields, as it comes.
pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// A part of an answer: bytes, or what is left of an object's JSON from some place on. Objects are not touched before
/// they are sent: a list has tens of thousands.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    Json(Arc<Entry>, usize),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Json(entry, from) => &entry.json[*from..],
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Json(entry, from) => entry.json.slice(from..),
        }
    }
}

/// Shared pieces of one answer, in order.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Piece>,
    len: usize,
}

impl Pieces {
    pub fn with_capacity(pieces: usize) -> Self {
        Self { pieces: Vec::with_capacity(pieces), len: 0 }
    }

    pub fn push(&mut self, piece: impl Into<Bytes>) {
        let piece = piece.into();
        self.len += piece.len();
        self.pieces.push(Piece::Bytes(piece));
    }

    /// The object's JSON from `from` on.
    pub fn push_json(&mut self, entry: Arc<Entry>, from: usize) {
        self.len += entry.json.len() - from;
        self.pieces.push(Piece::Json(entry, from));
    }

    /// Bytes of the whole answer.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Everything in one buffer.
    pub fn concat(self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|p| out.extend_from_slice(p.as_slice()));
        out.freeze()
    }

    /// Chunks gathered as they are sent.
    fn chunks(self) -> impl Iterator<Item = Bytes> {
        let mut pieces = self.pieces.into_iter().peekable();
        std::iter::from_fn(move || {
            let first = pieces.next()?;
            if first.as_slice().len() >= CHUNK_LEN || pieces.peek().is_none() {
                return Some(first.into_bytes());
            }
            let mut out = BytesMut::with_capacity(CHUNK_LEN);
            out.extend_from_slice(first.as_slice());
            while let Some(next) = pieces.next_if(|p| out.len() + p.as_slice().len() <= CHUNK_LEN) {
                out.extend_from_slice(next.as_slice());
            }
            Some(out.freeze())
        })
    }

    /// The answer, compressed on the way when asked for.
    pub fn into_body(self, gzip: bool) -> Body {
        if gzip {
            return stream(futures::stream::iter(gzip_chunks(self.chunks())));
        }
        if self.len <= CHUNK_LEN {
            return full(self.concat());
        }
        stream(futures::stream::iter(self.chunks()))
    }
}

fn gzip_chunks(chunks: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let mut encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut chunks = chunks;
    std::iter::from_fn(move || {
        loop {
            let writer = encoder.as_mut()?;
            let Some(chunk) = chunks.next() else {
                // Writing into memory cannot fail.
                return encoder.take().and_then(|e| e.finish().ok()).map(Bytes::from);
            };
            writer.write_all(&chunk).ok()?;
            if writer.get_ref().len() >= CHUNK_LEN {
                return Some(std::mem::take(writer.get_mut()).into());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn sample() -> Pieces {
        let mut pieces = Pieces::default();
        for i in 0..5000 {
            pieces.push(format!("piece {i} {}", "x".repeat(i % 100)));
        }
        pieces
    }

    #[test]
    fn chunks_are_the_pieces() {
        let whole = sample().concat();
        let chunks: Vec<Bytes> = sample().chunks().collect();
        assert!(chunks.len() > 1 && chunks.iter().all(|c| c.len() <= CHUNK_LEN));
        assert_eq!(chunks.concat(), whole);
        let zipped: Vec<Bytes> = gzip_chunks(sample().chunks()).collect();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&zipped.concat()[..]).read_to_end(&mut plain).expect("gzip");
        assert_eq!(plain, whole);
    }
}
