//! The part of SPDY/3.1 that streaming servers of container runtimes need: opening streams, data, ends, pings. Pure:
//! bytes in, frames out, and the other way.
//!
//! Headers are sent as zlib's stored blocks, which every zlib reader takes; headers that come back are skipped,
//! because an opened stream is answered with none. There is no flow control: these servers have none either.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of every frame's head.
const HEAD_BYTES: usize = 8;
/// Largest frame taken from a runtime; it writes pieces of 32 KiB.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Largest payload sent in one frame.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// First half of a control frame's head: control bit and version 3.
const CONTROL: u16 = 0x8003;
/// Flag of a stream's last frame.
const FIN: u8 = 1;
/// The zlib header of a stream without dictionary.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];
/// An empty stored block: makes the reader hand out what came before.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Numbers of control frames.
mod kind {
    pub const SYN_STREAM: u16 = 1;
    pub const RST_STREAM: u16 = 3;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
}

/// A stream, as the side that opened it counts: 1, 3, 5….
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; `last` ends its direction.
    Data {
        /// Of which.
        stream: StreamId,
        /// The bytes.
        bytes: Bytes,
        /// No more follow.
        last: bool,
    },
    /// A stream is over in both directions.
    Reset(StreamId),
    /// To be sent back as it is.
    Ping(u32),
    /// The connection is about to end.
    GoAway,
    /// Nothing that matters here: answers to opened streams, settings, windows.
    Other,
}

/// The other side does not speak SPDY.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a SPDY frame of {0} bytes: more than {FRAME_BYTES_MAX}, the connection is out of step")]
pub struct TooLong(usize);

/// Opens streams: their headers share one zlib stream a connection.
#[derive(Debug, Default)]
pub struct Opener {
    opened: u32,
}

impl Opener {
    /// A frame that opens the next stream with these headers (names in lower case).
    pub fn open(&mut self, headers: &[(&str, &str)]) -> (StreamId, Bytes) {
        let id = StreamId(self.opened * 2 + 1);
        let mut block = BytesMut::new();
        block.put_u32(length(headers.len()));
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(length(text.len()));
            block.put_slice(text.as_bytes());
        }
        let mut body = BytesMut::new();
        body.put_u32(id.0);
        body.put_u32(0);
        // Priority and slot: the highest, none.
        body.put_u16(0);
        if self.opened == 0 {
            body.put_slice(&ZLIB_HEADER);
        }
        for piece in block.chunks(usize::from(u16::MAX)) {
            let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            body.put_u8(0);
            body.put_u16_le(len);
            body.put_u16_le(!len);
            body.put_slice(piece);
        }
        body.put_slice(&FLUSH);
        self.opened += 1;
        (id, control(kind::SYN_STREAM, &body))
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + body.len());
    frame.put_u16(CONTROL);
    frame.put_u16(kind);
    frame.put_u32(length(body.len()) & 0x00ff_ffff);
    frame.put_slice(body);
    frame.freeze()
}

/// A frame with bytes of a stream, at most [`PAYLOAD_BYTES_MAX`]; `last` ends this direction.
pub fn data(stream: StreamId, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + bytes.len());
    frame.put_u32(stream.0);
    frame.put_u32(u32::from(if last { FIN } else { 0 }) << 24 | length(bytes.len()));
    frame.put_slice(bytes);
    frame.freeze()
}

/// The answer to a ping.
pub fn pong(id: u32) -> Bytes {
    control(kind::PING, &id.to_be_bytes())
}

/// Takes the first whole frame out of `buffer`; `None` until all of it is there.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, TooLong> {
    if buffer.len() < HEAD_BYTES {
        return Ok(None);
    }
    let (mut first, mut second) = (&buffer[..4], &buffer[4..HEAD_BYTES]);
    let (first, second) = (first.get_u32(), second.get_u32());
    let len = (second & 0x00ff_ffff) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(TooLong(len));
    }
    if buffer.len() < HEAD_BYTES + len {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let body = buffer.split_to(len).freeze();
    let last = (second >> 24) as u8 & FIN != 0;
    if first & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data { stream: StreamId(first), bytes: body, last }));
    }
    let number = body.get(..4).map(|mut b| b.get_u32());
    Ok(Some(match ((first & 0xffff) as u16, number) {
        (kind::RST_STREAM, Some(id)) => Frame::Reset(StreamId(id)),
        (kind::PING, Some(id)) => Frame::Ping(id),
        (kind::GOAWAY, _) => Frame::GoAway,
        _ => Frame::Other,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_one_zlib_stream() {
        let mut opener = Opener::default();
        let mut inflate = flate2::Decompress::new(true);
        for (at, value) in ["error", "stdin"].into_iter().enumerate() {
            let (id, frame) = opener.open(&[("streamtype", value)]);
            assert_eq!(id, StreamId(at as u32 * 2 + 1));
            assert_eq!(&frame[..4], [0x80, 3, 0, 1]);
            let mut out = Vec::with_capacity(256);
            inflate
                .decompress_vec(&frame[HEAD_BYTES + 10..], &mut out, flate2::FlushDecompress::Sync)
                .expect("zlib");
            let expected = [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, 5], value.as_bytes()];
            assert_eq!(out, expected.concat());
        }
    }

    fn check(bytes: &[u8], expected: &[Frame], left: usize) {
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = take(&mut buffer).expect("SPDY") {
            frames.push(frame);
        }
        assert_eq!((frames.as_slice(), buffer.len()), (expected, left));
    }

    #[test]
    fn frames_are_taken_whole() {
        let stream = StreamId(5);
        let sent = data(stream, b"hello", true);
        let whole = Frame::Data { stream, bytes: Bytes::from_static(b"hello"), last: true };
        check(&sent, &[whole], 0);
        check(&sent[..12], &[], 12);
        check(&[&pong(7)[..], &data(stream, b"", false)[..3]].concat(), &[Frame::Ping(7)], 3);
        check(&control(kind::RST_STREAM, &[0, 0, 0, 5, 0, 0, 0, 1]), &[Frame::Reset(stream)], 0);
        check(&control(kind::GOAWAY, &[0; 8]), &[Frame::GoAway], 0);
        // Answers to opened streams, and control frames cut short, mean nothing here.
        check(&control(2, &[0, 0, 0, 1]), &[Frame::Other], 0);
        check(&control(kind::PING, &[]), &[Frame::Other], 0);
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert_eq!(take(&mut buffer), Err(TooLong(0x00ff_ffff)));
    }
}
