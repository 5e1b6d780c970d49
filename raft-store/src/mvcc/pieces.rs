//! A long answer as it is written: in pieces, so that it is never moved to make room.

use bytes::Bytes;

/// Bytes of one piece; large enough that a piece costs nothing, small enough that memory is found at once.
const PIECE_BYTES: usize = 64 << 10;
/// Room for the usual answer: one object of a few kilobytes.
const FIRST_PIECE_BYTES: usize = 2 << 10;
/// Left free at the very front, for whoever frames the answer.
pub const HEAD_BYTES: usize = 5;

/// Bytes in order.
#[derive(Debug)]
pub struct Pieces {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    bytes: usize,
}

impl Default for Pieces {
    fn default() -> Self {
        let mut last = Vec::with_capacity(FIRST_PIECE_BYTES);
        last.resize(HEAD_BYTES, 0);
        Self { full: Vec::new(), last, bytes: 0 }
    }
}

impl Pieces {
    /// Appends what `write` puts into the buffer; `expected` bytes are about to come.
    pub fn append(&mut self, expected: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if self.last.len() + expected > PIECE_BYTES && self.last.len() > HEAD_BYTES {
            let next = Vec::with_capacity(PIECE_BYTES.max(expected));
            self.full.push(std::mem::replace(&mut self.last, next));
        }
        let before = self.last.len();
        write(&mut self.last);
        self.bytes += self.last.len() - before;
    }

    /// Bytes written, without the head.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The pieces, the first with `head` in front.
    pub fn framed(mut self, head: [u8; HEAD_BYTES]) -> impl Iterator<Item = Bytes> {
        let first = self.full.first_mut().unwrap_or(&mut self.last);
        first[..HEAD_BYTES].copy_from_slice(&head);
        self.full.into_iter().chain([self.last]).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_what_was_written() {
        for sizes in [vec![], vec![3], vec![70_000, 1], vec![1, 70_000], vec![40_000; 7]] {
            let mut pieces = Pieces::default();
            let mut expected = b"head!".to_vec();
            for (number, size) in sizes.iter().enumerate() {
                let part = vec![number as u8; *size];
                pieces.append(*size, |buffer| buffer.extend_from_slice(&part));
                expected.extend_from_slice(&part);
            }
            assert_eq!(pieces.len() + HEAD_BYTES, expected.len());
            let all: Vec<Bytes> = pieces.framed(*b"head!").collect();
            assert_eq!(all.concat(), expected, "{sizes:?}");
        }
    }
}
