//! Lets etcdctl 3.4 in, which names its endpoint's whole URL as the `:authority` of a connection's requests.
//!
//! HTTP/2 wants a host there, and the HTTP library refuses the request before any service sees it; etcd's own server
//! never looks. [`MendAuthority`] looks at the first block of request headers on a connection and puts a host in such
//! a URL's place; everything before and behind passes as it is. Later requests of the connection refer to the first
//! one's authority by its number in the compression table. The number stays right: the replacement is shorter, so the
//! reader's table forgets later than the writer's, and entries are counted from the newest.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before each frame's payload.
const FRAME_HEAD: usize = 9;
/// Longest frame a server takes before it has said otherwise; anything longer is not ours to look at.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
/// A literal of four plain bytes, shorter than any URL.
const HOST_LITERAL: &[u8] = b"\x04etcd";
/// Bytes read at a time until the first headers have come.
const READ_BYTES: usize = 4_096;

/// A stream whose first request headers have been looked at.
pub struct MendAuthority<S> {
    inner: S,
    /// Read, and not yet judged.
    held: BytesMut,
    /// Judged, and not yet taken by the reader.
    ready: BytesMut,
    is_http2: bool,
    is_done: bool,
}

impl<S> MendAuthority<S> {
    /// Looks at what `inner` reads.
    pub fn new(inner: S) -> Self {
        let (held, ready) = (BytesMut::new(), BytesMut::new());
        Self { inner, held, ready, is_http2: false, is_done: false }
    }

    fn pass_all(&mut self) {
        self.is_done = true;
        let rest = self.held.split();
        self.ready.unsplit(rest);
    }

    /// Moves on what can be judged of `held`.
    fn judge(&mut self) {
        if !self.is_http2 {
            let known = self.held.len().min(PREFACE.len());
            if self.held[..known] != PREFACE[..known] {
                return self.pass_all();
            }
            if known < PREFACE.len() {
                return;
            }
            self.is_http2 = true;
            self.ready.unsplit(self.held.split_to(PREFACE.len()));
        }
        while let Some(head) = self.held.get(..FRAME_HEAD) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let kind = head[3];
            if length > FRAME_BYTES_MAX {
                return self.pass_all();
            }
            if self.held.len() < FRAME_HEAD + length {
                return;
            }
            let frame = self.held.split_to(FRAME_HEAD + length);
            if kind != HEADERS {
                self.ready.unsplit(frame);
                continue;
            }
            match mend(&frame) {
                Some(mended) => self.ready.extend_from_slice(&mended),
                None => self.ready.unsplit(frame),
            }
            return self.pass_all();
        }
    }
}

/// A frame of headers with a host for an authority that is a URL; nothing when there is nothing to mend.
fn mend(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let mut from = FRAME_HEAD;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(from)?))?;
        from += 1;
    }
    if flags & PRIORITY != 0 {
        from += 5;
    }
    let (start, stop) = authority(frame.get(from..end)?)?;
    let mut mended = Vec::with_capacity(frame.len());
    mended.extend_from_slice(&frame[..from + start]);
    mended.extend_from_slice(HOST_LITERAL);
    mended.extend_from_slice(&frame[from + stop..]);
    let length = u32::try_from(mended.len() - FRAME_HEAD).ok()?.to_be_bytes();
    mended[..3].copy_from_slice(&length[1..]);
    Some(mended)
}

/// Where in a header block the value of an `:authority` that is a URL stands.
fn authority(block: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let bits = match first {
            // A field, or a new size of the table: nothing but a number.
            0x80.. => 7,
            0x20..0x40 => 5,
            0x40..0x80 => 6,
            _ => 4,
        };
        let index = number(block, &mut at, bits)?;
        if bits == 7 || bits == 5 {
            continue;
        }
        if index == 0 {
            string(block, &mut at)?;
        }
        let start = at;
        let (packed, value) = string(block, &mut at)?;
        if index == AUTHORITY_INDEX && is_url(packed, value) {
            return Some((start, at));
        }
    }
    None
}

/// A number in the low `bits` of a byte, and in the bytes after it where they do not suffice.
fn number(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let full = (1_usize << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & full;
    *at += 1;
    if value < full {
        return Some(value);
    }
    // Three more bytes name more than a frame can hold.
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string and whether it is packed with the Huffman code.
fn string<'b>(block: &'b [u8], at: &mut usize) -> Option<(bool, &'b [u8])> {
    let packed = *block.get(*at)? & 0x80 != 0;
    let length = number(block, at, 7)?;
    let value = block.get(*at..at.checked_add(length)?)?;
    *at += length;
    Some((packed, value))
}

/// Whether a value begins with `http://` or `https://`, which no authority does.
fn is_url(packed: bool, value: &[u8]) -> bool {
    let schemes = ["http://", "https://"];
    if packed {
        schemes.iter().any(|scheme| begins_packed(value, scheme))
    } else {
        schemes.iter().any(|scheme| value.starts_with(scheme.as_bytes()))
    }
}

/// The Huffman codes (RFC 7541, appendix B) of the letters of a scheme: letter, code, bits.
const CODES: [(u8, u32, u32); 6] = [
    (b'/', 0b01_1000, 6),
    (b':', 0b101_1100, 7),
    (b'h', 0b10_0111, 6),
    (b'p', 0b10_1011, 6),
    (b's', 0b0_1000, 5),
    (b't', 0b0_1001, 5),
];

fn begins_packed(value: &[u8], text: &str) -> bool {
    let mut position = 0;
    for letter in text.bytes() {
        let Some((_, code, bits)) = CODES.iter().find(|(known, ..)| *known == letter) else { return false };
        for bit in (0..*bits).rev() {
            let Some(byte) = value.get(position / 8) else { return false };
            if u32::from(byte >> (7 - position % 8) & 1) != code >> bit & 1 {
                return false;
            }
            position += 1;
        }
    }
    true
}

impl<S: AsyncRead + Unpin> AsyncRead for MendAuthority<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() && !this.is_done {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                this.pass_all();
            } else {
                this.held.extend_from_slice(read.filled());
                this.judge();
            }
        }
        if this.ready.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let taken = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..taken]);
        this.ready.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MendAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &1_u32.to_be_bytes()[..], payload].concat()
    }

    /// `:method POST`, an authority, and a field whose name is spelt out.
    fn block(authority: &[u8]) -> Vec<u8> {
        [b"\x83\x41".as_slice(), authority, b"\x40\x02te\x08trailers"].concat()
    }

    async fn read(input: &[u8], split: usize) -> Vec<u8> {
        let (first, second) = input.split_at(split);
        let mut stream = MendAuthority::new(AsyncReadExt::chain(first, second));
        let mut output = Vec::new();
        stream.read_to_end(&mut output).await.unwrap();
        output
    }

    /// However the bytes arrive.
    async fn check(input: &[u8], expected: &[u8]) {
        for split in 0..=input.len() {
            assert_eq!(read(input, split).await, expected, "split at {split}");
        }
    }

    /// Settings come before the headers, data and another request behind them.
    fn connection(headers: &[u8]) -> Vec<u8> {
        let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
        let behind = frame(HEADERS, 4, &block(b"\x0ahttp://x:1"));
        [PREFACE, &settings, headers, &frame(0, 1, b"data"), &behind].concat()
    }

    #[tokio::test]
    async fn a_url_becomes_a_host_and_all_else_passes() {
        let plain = frame(HEADERS, 4, &block(b"\x0e127.0.0.1:2379"));
        check(&connection(&plain), &connection(&plain)).await;
        let mended = connection(&frame(HEADERS, 4, &block(HOST_LITERAL)));
        let url = frame(HEADERS, 4, &block(b"\x15http://127.0.0.1:2379"));
        check(&connection(&url), &mended).await;
        let start = packed_text("https://a");
        assert!(begins_packed(&start, "https://") && !begins_packed(&start, "http://"));
        let value = [&[0x80 | u8::try_from(start.len()).unwrap()], start.as_slice()].concat();
        check(&connection(&frame(HEADERS, 4, &block(&value))), &mended).await;
        let padded = [b"\x02".as_slice(), &[0; 5], &block(b"\x0ahttp://x:1"), b"\0\0"].concat();
        let expected = [b"\x02".as_slice(), &[0; 5], &block(HOST_LITERAL), b"\0\0"].concat();
        let flags = 4 | PADDED | PRIORITY;
        check(&connection(&frame(HEADERS, flags, &padded)), &connection(&frame(HEADERS, flags, &expected)))
            .await;
    }

    fn packed_text(text: &str) -> Vec<u8> {
        let mut bits = Vec::new();
        for letter in text.bytes() {
            let (code, length) = match letter {
                b'a' => (0b0_0011, 5),
                other => CODES.iter().find(|(known, ..)| *known == other).map(|(_, c, n)| (*c, *n)).unwrap(),
            };
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        // Padded with ones.
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
    }

    #[tokio::test]
    async fn what_is_not_http2_or_broken_passes() {
        check(b"POST /v3/kv/range HTTP/1.1\r\n\r\n", b"POST /v3/kv/range HTTP/1.1\r\n\r\n").await;
        check(b"PRI * HTTP", b"PRI * HTTP").await;
        let broken = connection(&frame(HEADERS, 4, b"\x41\x7f\xff\xff\xff\xff"));
        check(&broken, &broken).await;
        let long = [PREFACE, &[0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 1, 9]].concat();
        check(&long, &long).await;
    }
}
